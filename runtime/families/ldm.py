"""Stable Diffusion's original single-file layout ("ldm"): architecture from names and shapes, weights by component.

The names are those of CompVis/stable-diffusion's `v1-inference.yaml` models; diffusers' own converters turn them
into diffusers' names. What a file cannot say (heads, norm groups) is SD 1.x's fixed convention, given by the caller.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from torch import Tensor

from runtime.families.protocol import Shapes

UNET = "model.diffusion_model."
VAE = "first_stage_model."
CLIP = "cond_stage_model.transformer."
OPEN_CLIP = "cond_stage_model.model."

_W = TypeVar("_W")
"""What stands for a weight: the tensor, or only its name."""


def unet_config(shapes: Shapes, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """UNet2DConditionModel's config; `defaults` holds what names and shapes cannot say."""
    outs = _numbers(shapes, rf"{re.escape(UNET)}input_blocks\.(\d+)\.0\.(?:out_layers\.3|op)\.weight")
    downs = _numbers(shapes, rf"{re.escape(UNET)}input_blocks\.(\d+)\.0\.op\.weight")
    layers = downs[0] - 1
    levels = len(downs) + 1
    firsts = [1 + level * (layers + 1) for level in range(levels)]
    assert set(firsts) <= set(outs)
    widths = [shapes[f"{UNET}input_blocks.{i}.0.out_layers.3.weight"][0] for i in firsts]
    attends = [f"{UNET}input_blocks.{i}.1.norm.weight" in shapes for i in firsts]
    key = next(name for name in shapes if name.startswith(UNET) and name.endswith("attn2.to_k.weight"))
    proj = next(name for name in shapes if name.startswith(UNET) and name.endswith("1.proj_in.weight"))
    return {
        **defaults,
        "in_channels": shapes[f"{UNET}input_blocks.0.0.weight"][1],
        "out_channels": shapes[f"{UNET}out.2.weight"][0],
        "block_out_channels": widths,
        "layers_per_block": layers,
        "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
        "cross_attention_dim": shapes[key][1],
        "use_linear_projection": len(shapes[proj]) == 2,
    }


def vae_config(shapes: Shapes, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """AutoencoderKL's config; `defaults` holds what names and shapes cannot say."""
    blocks = [
        name for name in shapes if re.fullmatch(rf"{VAE}encoder\.down\.\d+\.block\.\d+\.conv2\.weight", name)
    ]
    levels = 1 + max(int(name.split(".")[3]) for name in blocks)
    layers = 1 + max(int(name.split(".")[5]) for name in blocks)
    widths = [shapes[f"{VAE}encoder.down.{level}.block.0.conv2.weight"][0] for level in range(levels)]
    return {
        **defaults,
        "in_channels": shapes[f"{VAE}encoder.conv_in.weight"][1],
        "out_channels": shapes[f"{VAE}decoder.conv_out.weight"][0],
        "latent_channels": shapes[f"{VAE}decoder.conv_in.weight"][1],
        "block_out_channels": widths,
        "layers_per_block": layers,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }


def clip_config(shapes: Shapes, head_dim: int) -> dict[str, Any]:
    """CLIPTextConfig; every CLIP text tower that Stable Diffusion uses has heads of `head_dim` 64."""
    stem = f"{CLIP}text_model."
    vocabulary, width = shapes[f"{stem}embeddings.token_embedding.weight"]
    layers = _numbers(shapes, rf"{re.escape(stem)}encoder\.layers\.(\d+)\.mlp\.fc1\.weight")
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shapes[f"{stem}encoder.layers.0.mlp.fc1.weight"][0],
        "num_hidden_layers": len(layers),
        "num_attention_heads": width // head_dim,
        "max_position_embeddings": shapes[f"{stem}embeddings.position_embedding.weight"][0],
        "hidden_act": "quick_gelu",
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
    }


def unet_weights(names: list[str], load: Callable[[str], _W], config: Mapping[str, Any]) -> dict[str, _W]:
    """The UNet's weights under diffusers' names."""
    mine = {name: load(name) for name in names if name.startswith(UNET)}
    return convert_ldm_unet_checkpoint(mine, dict(config))


def vae_weights(
    names: list[str], load: Callable[[str], Tensor], config: Mapping[str, Any]
) -> dict[str, Tensor]:
    """The autoencoder's weights under diffusers' names."""
    mine = {name: load(name) for name in names if name.startswith(VAE)}
    return convert_ldm_vae_checkpoint(mine, dict(config))


def clip_weights(names: list[str], load: Callable[[str], _W]) -> dict[str, _W]:
    """The text tower's weights under the names of transformers >= 5.6, which has no `text_model` level."""
    stem = f"{CLIP}text_model."
    return {
        name.removeprefix(stem): load(name)
        for name in names
        if name.startswith(stem) and not name.endswith("position_ids")
    }


def _numbers(shapes: Shapes, pattern: str) -> list[int]:
    found = (re.fullmatch(pattern, name) for name in shapes)
    return sorted(int(match[1]) for match in found if match)
