"""Stable Diffusion 3 and 3.5, medium and large (Esser et al. 2024, arXiv:2403.03206): a rectified-flow transformer
that reads a caption by CLIP-L, CLIP-G and T5-XXL.

A single file with all three text encoders is a base, or one without and their files, with T5's vocabulary in
`tokenizer_3/` beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from PIL.Image import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5EncoderModel

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
    t5,
    tokenizing,
    usual,
)
from runtime.families import objective as objectives
from runtime.families import tiny as tiny_parts
from runtime.families.parts import Part, configs, within
from runtime.families.protocol import Architecture, Batch, Modules, Original, Shapes, Wish

NAME = "sd3"
TITLE = "Stable Diffusion 3"
KIND = "images"
EXPORTS = ("webui", "diffusers")
COMPONENTS = ("transformer", "text_encoder", "text_encoder_2", "text_encoder_3", "vae")
BACKBONE = "transformer"
TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
TRAINED_TEXT_ENCODERS: tuple[str, ...] = ()
WORD_FILES: dict[str, str] = {}
CLIP_SKIP = ""
STREAMED: dict[str, plan.Dtype] = {"text_encoder_3": "bf16"}
VAE = "vae"
BESIDE = ("tokenizer_3",)
PROJECTION = "text_projection.weight"
PARTS: dict[str, Part] = {
    "text_encoder": Part("CLIP-L", (bundles.CLIP_L,), (PROJECTION,)),
    "text_encoder_2": Part("CLIP-G", (bundles.CLIP_G,), (PROJECTION,)),
    "text_encoder_3": bundles.T5_PART,
    "vae": bundles.VAE_PART,
}
GRID = 64
CAPTION_TOKENS = 256
"""T5's: diffusers' StableDiffusion3Pipeline draws with as many (`max_sequence_length`)."""
OBJECTIVE: dict[str, Any] = {"timesteps": "logit_normal", "timestep_shift": 3.0}
SAMPLING = {"steps": 28, "guidance": 4.5}
CFG = True

VAE_FIXED: dict[str, Any] = {"scaling_factor": 1.5305, "shift_factor": 0.0609, "sample_size": 1024}
SCHEDULER: dict[str, Any] = {"num_train_timesteps": 1000, "shift": 3.0}
HEAD_DIM = 64
CLIP_PREFIXES = {"text_encoder": bundles.CLIP_L, "text_encoder_2": bundles.CLIP_G}
PADS = {"text_encoder": clip_vocabulary.END, "text_encoder_2": clip_vocabulary.OPEN_CLIP_PAD}

# config.json of each transformer: stable-diffusion-3-medium, -3.5-medium, -3.5-large.
SIZES: dict[str, dict[str, Any]] = {
    "3-medium": {"num_layers": 24, "num_attention_heads": 24, "pos_embed_max_size": 192, "qk_norm": None},
    "3.5-medium": {
        "num_layers": 24,
        "num_attention_heads": 24,
        "pos_embed_max_size": 384,
        "qk_norm": "rms_norm",
        "dual_attention_layers": list(range(13)),
    },
    "3.5-large": {
        "num_layers": 38,
        "num_attention_heads": 38,
        "pos_embed_max_size": 192,
        "qk_norm": "rms_norm",
    },
}

ATTENTION = r"attn2?\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)"
FEED_FORWARD = r"ff(_context)?\.net\.(0\.proj|2)"
MODULATION = r"norm1(_context)?\.linear"
BLOCK = r"transformer_blocks\.\d+\."
PRESETS = {
    "qkvo": f"{BLOCK}{ATTENTION}",
    "qkvo+ff": f"{BLOCK}({ATTENTION}|{FEED_FORWARD})",
    "all-linear": f"{BLOCK}({ATTENTION}|{FEED_FORWARD}|{MODULATION})",
}


# ------------------------------------------------------------------------------------------------------ recognising


def recognise(shapes: Shapes) -> bool:
    prefix = bundles.denoiser(shapes)
    first = f"{prefix}joint_blocks.0.x_block.attn.qkv.weight"
    return first in shapes and f"{prefix}y_embedder.mlp.0.weight" in shapes


def recognise_folder(index: dict[str, Any], configs: dict[str, Any]) -> bool:
    return index.get("transformer", [None, None])[1] == "SD3Transformer2DModel" and "text_encoder_3" in index


recognise_config = usual.recognise_config


def published(name: str = "") -> Architecture:
    """One of SIZES, `3.5-medium` where none is named. Raises SpecError for another name."""
    if name not in ("", *SIZES):
        known = ", ".join(f'"{one}"' for one in SIZES)
        raise SpecError(Problem("base.published", f'of {TITLE} there are {known}, got "{name}"'))
    size = SIZES[name or "3.5-medium"]
    return {
        "transformer": {
            "sample_size": 128,
            "patch_size": 2,
            "in_channels": 16,
            "out_channels": 16,
            "attention_head_dim": HEAD_DIM,
            "joint_attention_dim": 4096,
            "caption_projection_dim": size["num_attention_heads"] * HEAD_DIM,
            "pooled_projection_dim": 2048,
            "dual_attention_layers": [],
            **size,
        },
        "vae": {**bundles.VAE_PUBLISHED, **bundles.VAE_FIXED, **VAE_FIXED},
        "text_encoder": {**clip_towers.L, "projection_dim": 768},
        "text_encoder_2": dict(clip_towers.BIG_G),
        "text_encoder_3": dict(t5.XXL),
        "scheduler": dict(SCHEDULER),
    }


def architecture(shapes: Shapes) -> Architecture:
    prefix = bundles.denoiser(shapes)
    width, channels = shapes[f"{prefix}x_embedder.proj.weight"][:2]
    norm = shapes.get(f"{prefix}joint_blocks.0.x_block.attn.ln_q.weight")
    head = norm[0] if norm else HEAD_DIM
    layers = bundles.count(shapes, f"{prefix}joint_blocks.")
    attends_twice = f"{prefix}joint_blocks.{{}}.x_block.attn2.qkv.weight"
    return {
        "transformer": {
            "sample_size": 128,
            "patch_size": 2,
            "in_channels": channels,
            "out_channels": shapes[f"{prefix}final_layer.linear.weight"][0] // 4,
            "num_layers": layers,
            "attention_head_dim": head,
            "num_attention_heads": width // head,
            "joint_attention_dim": shapes[f"{prefix}context_embedder.weight"][1],
            "caption_projection_dim": shapes[f"{prefix}context_embedder.weight"][0],
            "pooled_projection_dim": shapes[f"{prefix}y_embedder.mlp.0.weight"][1],
            "pos_embed_max_size": math.isqrt(shapes[f"{prefix}pos_embed"][1]),
            "dual_attention_layers": [n for n in range(layers) if attends_twice.format(n) in shapes],
            "qk_norm": "rms_norm" if norm else None,
        },
        **configs(
            PARTS,
            shapes,
            {
                "vae": lambda: bundles.vae_config(shapes, VAE_FIXED),
                "text_encoder": lambda: _tower(shapes, bundles.CLIP_L),
                "text_encoder_2": lambda: {**_tower(shapes, bundles.CLIP_G), "hidden_act": "gelu"},
                "text_encoder_3": lambda: t5.config(shapes, bundles.T5),
            },
        ),
        "scheduler": dict(SCHEDULER),
    }


def _tower(shapes: Shapes, prefix: str) -> dict[str, Any]:
    return {**ldm.clip_config(shapes, prefix), "projection_dim": shapes[f"{prefix}{PROJECTION}"][0]}


prediction_type = flow.prediction_type


# ---------------------------------------------------------------------------------------------- building and loading

KINDS: dict[str, Any] = {
    "transformer": SD3Transformer2DModel,
    **dict.fromkeys(CLIP_PREFIXES, CLIPTextModelWithProjection),
    "text_encoder_3": T5EncoderModel,
    "vae": AutoencoderKL,
}


def build(architecture: Architecture, component: str) -> Any:
    config = architecture[component]
    if component in CLIP_PREFIXES:
        return CLIPTextModelWithProjection(CLIPTextConfig(**config))
    if component == "text_encoder_3":
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
        return fused.weights(fused_layouts.SD3, names, read, bundles.denoiser(names), width)
    if component == "vae":
        return bundles.vae_weights(names, read, config)
    if component in CLIP_PREFIXES:
        prefix = within(names, CLIP_PREFIXES[component])
        return bundles.clip_weights(names, read, prefix, level="")
    return t5.weights(names, read, within(names, bundles.T5))


def original_names(names: Sequence[str], architecture: Architecture) -> Mapping[str, Mapping[str, Original]]:
    config = architecture["transformer"]
    width = config["attention_head_dim"] * config["num_attention_heads"]
    clips = {
        component: bundles.clip_weights(names, str, prefix, level="")
        for component, prefix in CLIP_PREFIXES.items()
    }
    return {
        "transformer": fused.original(fused_layouts.SD3, names, bundles.denoiser(names), width),
        **clips,
        "text_encoder_3": t5.weights(names, str, bundles.T5),
    }


def load_tokenizers(path: Path, base: plan.Base) -> dict[str, Any]:
    return {
        **{tower: clip_vocabulary.of_base(path, base, tower, pad) for tower, pad in PADS.items()},
        "text_encoder_3": t5.tokenizer(path, "tokenizer_3", CAPTION_TOKENS),
    }


# --------------------------------------------------------------------------------------------------------- training


def targets(architecture: Architecture, preset: str, text_encoder: bool) -> dict[str, str]:
    return {BACKBONE: usual.pattern(PRESETS, preset)}


def blocks(modules: Modules) -> dict[str, nn.Module]:
    return usual.listed(modules, f"text_encoder_3.{t5.BLOCKS}", "transformer.transformer_blocks")


def tokenize(tokenizers: dict[str, Any], captions: Sequence[str]) -> Batch:
    return {
        "tokens": tokenizing.ids(tokenizers["text_encoder"], captions),
        "tokens_2": tokenizing.ids(tokenizers["text_encoder_2"], captions),
        "tokens_3": tokenizing.ids(tokenizers["text_encoder_3"], captions),
    }


def caption_tokens(tokenizers: dict[str, Any], captions: Sequence[str]) -> list[int]:
    return tokenizing.counts(tokenizers["text_encoder_3"], captions)


def encode_text(modules: Modules, tokens: Batch) -> Batch:
    """CLIP's last states but one side by side, padded to T5's width and followed by T5's; both summaries."""
    clips = [
        modules["text_encoder"](tokens["tokens"], output_hidden_states=True),
        modules["text_encoder_2"](tokens["tokens_2"], output_hidden_states=True),
    ]
    words = modules["text_encoder_3"](tokens["tokens_3"])[0]
    seen = torch.cat([clip.hidden_states[-2] for clip in clips], dim=-1)
    seen = F.pad(seen, (0, words.shape[-1] - seen.shape[-1]))
    return {
        "hidden": torch.cat([seen.to(words.dtype), words], dim=1),
        "pooled": torch.cat([clip.text_embeds for clip in clips], dim=-1),
    }


encode_picture = autoencoder.encode_picture
decode = autoencoder.decode
conditions = usual.conditions
draw = flow.draw


def example(architecture: Architecture, size: int, shape: plan.Shape, tokens: bool) -> Batch:
    clip, text, backbone = (architecture[name] for name in ("text_encoder", "text_encoder_3", "transformer"))
    length = clip["max_position_embeddings"]
    words = {
        "tokens": torch.zeros(size, length, dtype=torch.long),
        "tokens_2": torch.zeros(size, length, dtype=torch.long),
        "tokens_3": torch.zeros(size, CAPTION_TOKENS, dtype=torch.long),
    }
    said = {
        "hidden": torch.empty(size, length + CAPTION_TOKENS, text["d_model"], dtype=torch.bfloat16),
        "pooled": torch.empty(size, backbone["pooled_projection_dim"]),
    }
    return {
        **autoencoder.example(architecture["vae"], size, shape),
        "sigma": torch.zeros(size),
        **(words if tokens else said),
    }


def loss(modules: Modules, batch: Batch, base: plan.Base, objective: plan.Objective) -> Tensor:
    transformer = modules["transformer"]
    latents = flow.scaled(autoencoder.drawn(batch), base.architecture["vae"])
    noise, sigma = batch["noise"], batch["sigma"]
    said = transformer(
        hidden_states=flow.noisy(latents, noise, sigma).to(transformer.dtype),
        timestep=sigma * SCHEDULER["num_train_timesteps"],
        encoder_hidden_states=batch["hidden"].to(transformer.dtype),
        pooled_projections=batch["pooled"].to(transformer.dtype),
    ).sample
    return objectives.error(said, flow.target(latents, noise), batch, objective)


# --------------------------------------------------------------------------------------------------------- sampling


def sample(modules: Modules, tokenizers: dict[str, Any], base: plan.Base, wish: Wish) -> list[Image]:
    transformer = modules["transformer"]
    pipeline: Any = diffusers.StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler.from_config(base.architecture["scheduler"]),
        vae=modules["vae"],
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        text_encoder_3=None,
        tokenizer_3=None,
    )
    tokens = tokenize(tokenizers, [wish.prompt, wish.negative_prompt])
    said = encode_text(modules, {name: ids.to(transformer.device) for name, ids in tokens.items()})
    text = drawing.with_and_without(*(said[name].to(transformer.dtype) for name in ("hidden", "pooled")))
    latents = drawing.latents(pipeline, wish, text, guidance_scale=wish.guidance)
    pixels = decode(modules, flow.unscaled(latents, base.architecture["vae"]))
    return drawing.pictures(pipeline, pixels)


# ----------------------------------------------------------------------------------------------------------- naming


export_name = usual.export_name  # part by part of the fused layers, as in FLUX.1 (runtime.families.flux1)


def metadata(base: plan.Base) -> dict[str, str]:
    config = base.architecture["transformer"]
    size = "5-medium" if config["dual_attention_layers"] else "5-large" if config["qk_norm"] else "medium"
    return {
        "ss_base_model_version": size,
        "ss_v2": "False",
        "modelspec.architecture": f"stable-diffusion-3-{size}/lora",
        "modelspec.implementation": "diffusers",
        "sd version": "Unknown",
    }


# ------------------------------------------------------------------------------------------------------------- tiny


def tiny(folder: Path) -> Path:
    config = published()
    config["transformer"] |= {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 32}
    config["transformer"] |= {"joint_attention_dim": 128, "caption_projection_dim": 64}
    config["transformer"] |= {"pooled_projection_dim": 128, "pos_embed_max_size": 8}
    config["transformer"] |= {"sample_size": 8, "dual_attention_layers": [0]}
    config["vae"] |= tiny_parts.VAE
    for component in CLIP_PREFIXES:
        config[component] |= {**tiny_parts.CLIP, "projection_dim": 64}
    tiny_parts.write(folder, config, build, ("transformer", "vae", *CLIP_PREFIXES))
    t5.tiny(folder, "text_encoder_3", "tokenizer_3")
    for tower, pad in PADS.items():
        place = folder / clip_vocabulary.folder(tower)
        clip_vocabulary.tokenizer(tiny_parts.CLIP_WORDS, pad).save_pretrained(place)
    classes = {
        "transformer": "SD3Transformer2DModel",
        "vae": "AutoencoderKL",
        "text_encoder": "CLIPTextModelWithProjection",
        "tokenizer": "CLIPTokenizer",
        "text_encoder_2": "CLIPTextModelWithProjection",
        "tokenizer_2": "CLIPTokenizer",
        "text_encoder_3": "T5EncoderModel",
        "tokenizer_3": "T5Tokenizer",
        "scheduler": "FlowMatchEulerDiscreteScheduler",
    }
    tiny_parts.write_index(folder, "StableDiffusion3Pipeline", classes, config["scheduler"])
    return folder
