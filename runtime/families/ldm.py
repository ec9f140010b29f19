"""Stable Diffusion's original single-file layout ("ldm"): architecture from names and shapes, weights by component.

The names are those of CompVis/stable-diffusion's `v1-inference.yaml` models and of Stability-AI/generative-models'
`sd_xl_base.yaml`; diffusers' own converters turn them into diffusers' names. What a file cannot say (heads, norm
groups) is the family's fixed convention, given by the caller. `stem` is what a text tower's names begin with.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, TypeVar

from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from torch import Tensor

from runtime.families.protocol import Original, Rows, Shapes

UNET = "model.diffusion_model."
VAE = "first_stage_model."
CLIP = "cond_stage_model.transformer."
OPEN_CLIP = "cond_stage_model.model."
HEAD_DIM = 64
"""Width of a head in every CLIP text tower that Stable Diffusion uses."""

_W = TypeVar("_W")
"""What stands for a weight: the tensor, or only its name."""


def unet_config(shapes: Shapes, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """UNet2DConditionModel's config; `defaults` holds what names and shapes cannot say."""
    outs = _numbers(shapes, rf"{re.escape(UNET)}input_blocks\.(\d+)\.0\.(?:out_layers\.3|op)\.weight")
    firsts = _firsts(shapes)
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
        "layers_per_block": firsts[1] - firsts[0] - 1,
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


def transformer_depths(shapes: Shapes) -> list[int]:
    """How many blocks a transformer has at each level of the UNet; 1 where a level has none."""
    inner = [
        re.fullmatch(rf"{re.escape(UNET)}input_blocks\.(\d+)\.1\.transformer_blocks\.(\d+)\.norm1\.weight", n)
        for n in shapes
    ]
    deep: dict[int, int] = {}
    for match in filter(None, inner):
        deep[int(match[1])] = max(deep.get(int(match[1]), 0), int(match[2]) + 1)
    return [deep.get(first, 1) for first in _firsts(shapes)]


def clip_config(shapes: Shapes, stem: str = CLIP) -> dict[str, Any]:
    """CLIPTextConfig of an OpenAI tower."""
    stem = f"{stem}text_model."
    layers = _numbers(shapes, rf"{re.escape(stem)}encoder\.layers\.(\d+)\.mlp\.fc1\.weight")
    return {
        **_tower(
            shapes[f"{stem}embeddings.token_embedding.weight"],
            shapes[f"{stem}embeddings.position_embedding.weight"],
            shapes[f"{stem}encoder.layers.0.mlp.fc1.weight"],
        ),
        "num_hidden_layers": len(layers),
        "hidden_act": "quick_gelu",
    }


def open_clip_config(shapes: Shapes, stem: str = OPEN_CLIP) -> dict[str, Any]:
    """CLIPTextConfig of an OpenCLIP tower, with all the layers that the file has."""
    layers = _numbers(shapes, rf"{re.escape(stem)}transformer\.resblocks\.(\d+)\.mlp\.c_fc\.weight")
    return {
        **_tower(
            shapes[f"{stem}token_embedding.weight"],
            shapes[f"{stem}positional_embedding"],
            shapes[f"{stem}transformer.resblocks.0.mlp.c_fc.weight"],
        ),
        "num_hidden_layers": len(layers),
        "hidden_act": "gelu",
    }


def _tower(words: tuple[int, ...], places: tuple[int, ...], inner: tuple[int, ...]) -> dict[str, Any]:
    vocabulary, width = words
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": inner[0],
        "num_attention_heads": width // HEAD_DIM,
        "max_position_embeddings": places[0],
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


def clip_weights(names: list[str], load: Callable[[str], _W], stem: str = CLIP) -> dict[str, _W]:
    """An OpenAI tower's weights under the names of transformers >= 5.6, which has no `text_model` level."""
    stem = f"{stem}text_model."
    return {
        name.removeprefix(stem): load(name)
        for name in names
        if name.startswith(stem) and not name.endswith("position_ids")
    }


def open_clip_weights(
    names: list[str], load: Callable[[str], Tensor], stem: str = OPEN_CLIP
) -> dict[str, Tensor]:
    """An OpenCLIP tower's weights under transformers' names, `text_model` level and projection included: q, k and v,
    which lie in one tensor there, are parted, and the projection is turned."""
    mine = {name: load(name) for name in names if name.startswith(stem)}
    width = mine[f"{stem}token_embedding.weight"].shape[1]
    return convert_open_clip_checkpoint(
        SimpleNamespace(config=SimpleNamespace(hidden_size=width)), mine, prefix=stem
    )


def open_clip_names(names: list[str], width: int, stem: str = OPEN_CLIP) -> dict[str, Original]:
    """A weight's name in transformers -> in the file, or its rows, of those that lie alike in both: all but the
    projection, which is turned. `width` is the tower's."""
    alike = {n: n for n in names if n.startswith(stem) and ".in_proj_" not in n and "projection" not in n}
    tower = SimpleNamespace(config=SimpleNamespace(hidden_size=0))
    found: dict[str, Original] = convert_open_clip_checkpoint(tower, alike, prefix=stem)
    beside = re.compile(rf"({re.escape(stem)}.*\.attn\.)out_proj\.(weight|bias)")
    attentions = [(ours, match) for ours, theirs in found.items() if (match := beside.fullmatch(str(theirs)))]
    for ours, match in attentions:
        for at, part in enumerate("qkv"):
            rows = Rows(f"{match[1]}in_proj_{match[2]}", at * width, (at + 1) * width)
            found[ours.replace(".out_proj.", f".{part}_proj.")] = rows
    return found


def _firsts(shapes: Shapes) -> list[int]:
    """The number of each level's first input block."""
    downs = _numbers(shapes, rf"{re.escape(UNET)}input_blocks\.(\d+)\.0\.op\.weight")
    return [1, *(down + 1 for down in downs)]


def _numbers(shapes: Shapes, pattern: str) -> list[int]:
    found = (re.fullmatch(pattern, name) for name in shapes)
    return sorted(int(match[1]) for match in found if match)
