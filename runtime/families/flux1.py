"""FLUX.1 dev and schnell (Black Forest Labs 2024): a rectified-flow transformer, T5-XXL's words, CLIP-L's summary.

- dev was distilled to take guidance as a number. It is trained at guidance 1, as every trainer does
  (sd-scripts, docs/flux_train_network.md), and drawn at 3.5.
- BFL's own file holds the denoiser alone. The diffusers folder beside it is a base, a file with everything
  (ComfyUI's "fp8 checkpoint") is one too, or BFL's with the others' files, and T5's vocabulary in `tokenizer_2/`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from PIL.Image import Image
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, T5EncoderModel

from runtime import plan
from runtime.errors import Problem, SpecError
from runtime.families import (
    autoencoder,
    bundles,
    clip_towers,
    clip_vocabulary,
    drawing,
    flow,
    fused,
    fused_layouts,
    ldm,
    loading,
    patches,
    t5,
    tokenizing,
    usual,
)
from runtime.families import objective as objectives
from runtime.families import tiny as tiny_parts
from runtime.families.parts import Part, configs, within
from runtime.families.protocol import Architecture, Batch, Modules, Original, Shapes, Wish

NAME = "flux1"
TITLE = "FLUX.1"
KIND = "images"
EXPORTS = ("webui", "diffusers")
COMPONENTS = ("transformer", "text_encoder", "text_encoder_2", "vae")
BACKBONE = "transformer"
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
TRAINED_TEXT_ENCODERS: tuple[str, ...] = ()
WORD_FILES: dict[str, str] = {}
CLIP_SKIP = ""
STREAMED: dict[str, plan.Dtype] = {"text_encoder_2": "bf16"}
VAE = "vae"
BESIDE = ("tokenizer_2",)
PARTS: dict[str, Part] = {
    "text_encoder": Part("CLIP-L", (bundles.CLIP_L,), bundles.CLIP_NAMES),
    "text_encoder_2": bundles.T5_PART,
    "vae": bundles.VAE_PART,
}
GRID = 64
CAPTION_TOKENS = 512
OBJECTIVE: dict[str, Any] = {"timesteps": "logit_normal", "timestep_shift": 0.0}
SAMPLING = {"steps": 28, "guidance": 3.5}
CFG = False

SCHNELL_TOKENS = 256
"""The most that schnell was trained with (diffusers' FluxPipeline documentation, `max_sequence_length`)."""

GUIDANCE = 1.0
"""dev's guidance while it is trained."""

VAE_FIXED: dict[str, Any] = {"scaling_factor": 0.3611, "shift_factor": 0.1159, "sample_size": 1024}

# scheduler_config.json of FLUX.1-dev, which shifts its times by the picture's size, and of FLUX.1-schnell.
DYNAMIC: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": True,
    **flow.BY_SIZE,
}
STATIC: dict[str, Any] = {"num_train_timesteps": 1000, "shift": 1.0, "use_dynamic_shifting": False}

ATTENTION = r"attn\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)"
FEED_FORWARD = r"ff(_context)?\.net\.(0\.proj|2)|proj_mlp|proj_out"
MODULATION = r"norm1?(_context)?\.linear"
BLOCK = r"(single_)?transformer_blocks\.\d+\."
PRESETS = {
    "qkvo": f"{BLOCK}{ATTENTION}",
    "qkvo+ff": f"{BLOCK}({ATTENTION}|{FEED_FORWARD})",
    "all-linear": f"{BLOCK}({ATTENTION}|{FEED_FORWARD}|{MODULATION})",
}


# ------------------------------------------------------------------------------------------------------ recognising


def recognise(shapes: Shapes) -> bool:
    prefix = bundles.denoiser(shapes)
    return (
        f"{prefix}double_blocks.0.img_mod.lin.weight" in shapes
        and f"{prefix}vector_in.in_layer.weight" in shapes
        and shapes.get(f"{prefix}img_in.weight", (0, 0))[1] == 64
    )


def recognise_folder(index: dict[str, Any], configs: dict[str, Any]) -> bool:
    return (
        index.get("transformer", [None, None])[1] == "FluxTransformer2DModel"
        and index.get("text_encoder_2", [None, None])[1] == "T5EncoderModel"
        and configs.get("transformer", {}).get("in_channels", 64) == 64
    )


recognise_config = usual.recognise_config


def published(name: str = "") -> Architecture:
    """`dev` (the usual) or `schnell`. Raises SpecError for another name."""
    if name not in ("", "dev", "schnell"):
        raise SpecError(Problem("base.published", f'of {TITLE} there are "dev" and "schnell", got "{name}"'))
    is_dev = name != "schnell"
    return {
        "transformer": {
            "patch_size": 1,
            "in_channels": 64,
            "num_layers": 19,
            "num_single_layers": 38,
            "attention_head_dim": 128,
            "num_attention_heads": 24,
            "joint_attention_dim": 4096,
            "pooled_projection_dim": 768,
            "guidance_embeds": is_dev,
            "axes_dims_rope": [16, 56, 56],
        },
        "vae": {**bundles.VAE_PUBLISHED, **bundles.VAE_FIXED, **VAE_FIXED},
        "text_encoder": dict(clip_towers.L),
        "text_encoder_2": dict(t5.XXL),
        "scheduler": dict(DYNAMIC if is_dev else STATIC),
    }


def architecture(shapes: Shapes) -> Architecture:
    prefix = bundles.denoiser(shapes)
    width, channels = shapes[f"{prefix}img_in.weight"]
    head = shapes[f"{prefix}double_blocks.0.img_attn.norm.query_norm.scale"][0]
    guided = f"{prefix}guidance_in.in_layer.weight" in shapes
    return {
        "transformer": {
            "patch_size": 1,
            "in_channels": channels,
            "num_layers": bundles.count(shapes, f"{prefix}double_blocks."),
            "num_single_layers": bundles.count(shapes, f"{prefix}single_blocks."),
            "attention_head_dim": head,
            "num_attention_heads": width // head,
            "joint_attention_dim": shapes[f"{prefix}txt_in.weight"][1],
            "pooled_projection_dim": shapes[f"{prefix}vector_in.in_layer.weight"][1],
            "guidance_embeds": guided,
            "axes_dims_rope": [head // 8, head * 7 // 16, head * 7 // 16],  # BFL's 16, 56, 56 of 128
        },
        **configs(
            PARTS,
            shapes,
            {
                "vae": lambda: bundles.vae_config(shapes, VAE_FIXED),
                "text_encoder": lambda: ldm.clip_config(shapes, bundles.CLIP_L),
                "text_encoder_2": lambda: t5.config(shapes, bundles.T5),
            },
        ),
        "scheduler": dict(DYNAMIC if guided else STATIC),
    }


prediction_type = flow.prediction_type


# ---------------------------------------------------------------------------------------------- building and loading

KINDS: dict[str, Any] = {
    "transformer": FluxTransformer2DModel,
    "text_encoder": CLIPTextModel,
    "text_encoder_2": T5EncoderModel,
    "vae": AutoencoderKL,
}


def build(architecture: Architecture, component: str) -> Any:
    config = architecture[component]
    if component == "text_encoder":
        return CLIPTextModel(CLIPTextConfig(**config))
    if component == "text_encoder_2":
        return t5.build(config)
    return KINDS[component].from_config(config)


def load(path: Path, base: plan.Base, component: str, dtype: torch.dtype) -> nn.Module:
    return loading.load(path, base, component, dtype, KINDS, build, _weights, TITLE)


def _weights(
    architecture: Architecture, component: str, names: list[str], read: loading.Read
) -> dict[str, Tensor]:
    """A component's weights in a single file."""
    config = architecture[component]
    if component == "transformer":
        width = config["attention_head_dim"] * config["num_attention_heads"]
        return fused.weights(fused_layouts.FLUX1, names, read, bundles.denoiser(names), width)
    if component == "vae":
        return bundles.vae_weights(names, read, config)
    if component == "text_encoder":
        return bundles.clip_weights(names, read, within(names, bundles.CLIP_L))
    return t5.weights(names, read, within(names, bundles.T5))


def original_names(names: Sequence[str], architecture: Architecture) -> Mapping[str, Mapping[str, Original]]:
    config = architecture["transformer"]
    width = config["attention_head_dim"] * config["num_attention_heads"]
    return {
        "transformer": fused.original(fused_layouts.FLUX1, names, bundles.denoiser(names), width),
        "text_encoder": bundles.clip_weights(names, str, bundles.CLIP_L),
        "text_encoder_2": t5.weights(names, str, bundles.T5),
    }


def load_tokenizers(path: Path, base: plan.Base) -> dict[str, Any]:
    return {
        "text_encoder": clip_vocabulary.of_base(path, base, "text_encoder"),
        "text_encoder_2": t5.tokenizer(path, "tokenizer_2", _tokens(base.architecture)),
    }


def _tokens(architecture: Architecture) -> int:
    return CAPTION_TOKENS if architecture["transformer"]["guidance_embeds"] else SCHNELL_TOKENS


# --------------------------------------------------------------------------------------------------------- training


def targets(architecture: Architecture, preset: str, text_encoder: bool) -> dict[str, str]:
    return {BACKBONE: usual.pattern(PRESETS, preset)}


def blocks(modules: Modules) -> dict[str, nn.Module]:
    kinds = ("transformer.transformer_blocks", "transformer.single_transformer_blocks")
    return usual.listed(modules, f"text_encoder_2.{t5.BLOCKS}", *kinds)


def tokenize(tokenizers: dict[str, Any], captions: Sequence[str]) -> Batch:
    return {
        "tokens": tokenizing.ids(tokenizers["text_encoder"], captions),
        "tokens_2": tokenizing.ids(tokenizers["text_encoder_2"], captions),
    }


def caption_tokens(tokenizers: dict[str, Any], captions: Sequence[str]) -> list[int]:
    return tokenizing.counts(tokenizers["text_encoder_2"], captions)


def encode_text(modules: Modules, tokens: Batch) -> Batch:
    return {
        "hidden": modules["text_encoder_2"](tokens["tokens_2"])[0],
        "pooled": modules["text_encoder"](tokens["tokens"]).pooler_output,
    }


encode_picture = autoencoder.encode_picture
decode = autoencoder.decode
conditions = usual.conditions
draw = flow.draw


def example(architecture: Architecture, size: int, shape: plan.Shape, tokens: bool) -> Batch:
    text, clip = architecture["text_encoder_2"], architecture["text_encoder"]
    length = _tokens(architecture)
    words = {
        "tokens": torch.zeros(size, clip["max_position_embeddings"], dtype=torch.long),
        "tokens_2": torch.zeros(size, length, dtype=torch.long),
    }
    said = {
        "hidden": torch.empty(size, length, text["d_model"], dtype=torch.bfloat16),
        "pooled": torch.empty(size, clip["hidden_size"]),
    }
    return {
        **autoencoder.example(architecture["vae"], size, shape),
        "sigma": torch.zeros(size),
        **(words if tokens else said),
    }


def loss(modules: Modules, batch: Batch, base: plan.Base, objective: plan.Objective) -> Tensor:
    latents = flow.scaled(autoencoder.drawn(batch), base.architecture["vae"])
    noise, sigma = batch["noise"], batch["sigma"]
    said = _denoise(modules["transformer"], flow.noisy(latents, noise, sigma), sigma, batch)
    return objectives.error(said, flow.target(latents, noise), batch, objective)


def _denoise(transformer: Any, latents: Tensor, sigma: Tensor, text: Batch) -> Tensor:
    """The direction that the transformer gives for latents (N, C, h, w) at times `sigma` (N,)."""
    rows, columns = (side // patches.SIDE for side in latents.shape[2:])
    dtype, device = transformer.dtype, latents.device
    words = text["hidden"].shape[1]
    places = torch.stack(
        [
            torch.zeros(rows, columns),
            *torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"),
        ],
        dim=-1,
    )
    guided = transformer.config.guidance_embeds
    said = transformer(
        hidden_states=patches.packed(latents).to(dtype),
        timestep=sigma.to(dtype),
        guidance=torch.full((len(sigma),), GUIDANCE, device=device) if guided else None,
        pooled_projections=text["pooled"].to(dtype),
        encoder_hidden_states=text["hidden"].to(dtype),
        img_ids=places.flatten(0, 1).to(device),
        txt_ids=torch.zeros(words, 3, device=device),
    ).sample
    return patches.unpacked(said, rows, columns)


# --------------------------------------------------------------------------------------------------------- sampling


def sample(modules: Modules, tokenizers: dict[str, Any], base: plan.Base, wish: Wish) -> list[Image]:
    transformer = modules["transformer"]
    pipeline: Any = diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler.from_config(base.architecture["scheduler"]),
        vae=modules["vae"],
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=transformer,
    )
    tokens = tokenize(tokenizers, [wish.prompt])
    said = encode_text(modules, {name: ids.to(transformer.device) for name, ids in tokens.items()})
    text = {
        "prompt_embeds": said["hidden"].to(transformer.dtype),
        "pooled_prompt_embeds": said["pooled"].to(transformer.dtype),
    }
    packed = drawing.latents(pipeline, wish, text, guidance_scale=wish.guidance)
    side = pipeline.vae_scale_factor * patches.SIDE
    latents = patches.unpacked(packed, wish.height // side, wish.width // side)
    pixels = decode(modules, flow.unscaled(latents, base.architecture["vae"]))
    return drawing.pictures(pipeline, pixels)


# ----------------------------------------------------------------------------------------------------------- naming


# ComfyUI and Forge map diffusers' paths onto BFL's fused layers, part by part, and take an alpha with them; kohya's
# names would need q, k and v packed into one (facts/outputs.md rule 9).
export_name = usual.export_name


def metadata(base: plan.Base) -> dict[str, str]:
    schnell = not base.architecture["transformer"]["guidance_embeds"]
    return {
        "ss_base_model_version": "flux1",
        "ss_v2": "False",
        "ss_model_prediction_type": "raw",
        "ss_guidance_scale": str(GUIDANCE),
        "modelspec.architecture": f"flux-1-{'schnell' if schnell else 'dev'}/lora",
        "modelspec.implementation": "https://github.com/black-forest-labs/flux",
        "sd version": "Flux",
    }


# ------------------------------------------------------------------------------------------------------------- tiny


def tiny(folder: Path) -> Path:
    config = published()
    config["transformer"] |= {"num_layers": 2, "num_single_layers": 2, "attention_head_dim": 32}
    config["transformer"] |= {
        "num_attention_heads": 2,
        "joint_attention_dim": 128,
        "pooled_projection_dim": 64,
    }
    config["transformer"] |= {"axes_dims_rope": [4, 14, 14]}
    config["vae"] |= tiny_parts.VAE
    config["text_encoder"] |= tiny_parts.CLIP
    tiny_parts.write(folder, config, build, ("transformer", "vae", "text_encoder"))
    t5.tiny(folder, "text_encoder_2", "tokenizer_2")
    clip_vocabulary.tokenizer(tiny_parts.CLIP_WORDS).save_pretrained(folder / "tokenizer")
    classes = {
        "transformer": "FluxTransformer2DModel",
        "vae": "AutoencoderKL",
        "text_encoder": "CLIPTextModel",
        "tokenizer": "CLIPTokenizer",
        "text_encoder_2": "T5EncoderModel",
        "tokenizer_2": "T5Tokenizer",
        "scheduler": "FlowMatchEulerDiscreteScheduler",
    }
    tiny_parts.write_index(folder, "FluxPipeline", classes, config["scheduler"])
    return folder
