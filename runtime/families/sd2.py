"""Stable Diffusion 2.x (Rombach et al. 2022; Stability AI): SD 1's UNet with OpenCLIP-H's text tower, whose last layer
is left out, and heads of 64 channels.

2.0 and 2.1 at 768 pixels predict v, their "base" models at 512 pixels ε. A folder says which in its scheduler's
config; a single file does not. One is taken for a 768-v, as diffusers' `from_single_file` does and most of those that
people share are: for a "base" write Base(prediction_type="epsilon").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextModel

from runtime import plan
from runtime.families import autoencoder, clip_towers, clip_vocabulary, ldm, sd1, unet, usual
from runtime.families import tiny as tiny_parts
from runtime.families.parts import Part
from runtime.families.protocol import Architecture, Original, Shapes

NAME = "sd2"
TITLE = "Stable Diffusion 2.x"
KIND = "images"
EXPORTS = ("webui", "diffusers")
COMPONENTS = ("unet", "text_encoder", "vae")
BACKBONE = "unet"
TEXT_ENCODERS = ("text_encoder",)
TRAINED_TEXT_ENCODERS = TEXT_ENCODERS
WORD_FILES = {"text_encoder": "emb_params"}
CLIP_SKIP = ""
STREAMED: dict[str, plan.Dtype] = {}
BESIDE: tuple[str, ...] = ()
PARTS: dict[str, Part] = {}
VAE = "vae"
GRID = unet.GRID
CAPTION_TOKENS = unet.CAPTION_TOKENS
OBJECTIVE: dict[str, Any] = {}
SAMPLING = {"steps": 25, "guidance": 7.5}
CFG = True

# What a single file cannot say: configs/stable-diffusion/v2-inference-v.yaml of Stability-AI/stablediffusion.
UNET_FIXED = {"norm_num_groups": 32, "sample_size": 96}
VAE_FIXED = {"norm_num_groups": 32, "scaling_factor": 0.18215, "sample_size": 768}
SCHEDULER = {**unet.SCHEDULER, "prediction_type": "v_prediction"}
LEFT_OUT = 1
"""Layers of the text tower that a single file has and nobody runs (`layer: penultimate` there)."""
PAD = clip_vocabulary.OPEN_CLIP_PAD
KINDS = {**unet.KINDS, "text_encoder": CLIPTextModel}
PRESETS = unet.OPEN_CLIP_PRESETS


# ------------------------------------------------------------------------------------------------------ recognising


def recognise(shapes: Shapes) -> bool:
    entry = shapes.get(f"{ldm.UNET}input_blocks.0.0.weight", ())
    return entry[1:2] == (4,) and any(name.startswith(ldm.OPEN_CLIP) for name in shapes)


def recognise_folder(index: dict[str, Any], configs: dict[str, Any]) -> bool:
    config = configs.get("unet", {})
    is_plain = config.get("in_channels", 4) == 4 and not config.get("class_embed_type")
    return unet.reads_clip(index) and is_plain and bool(config.get("use_linear_projection"))


recognise_config = usual.recognise_config


def published(name: str = "") -> Architecture:
    return {
        "unet": unet.of_64(
            {
                **unet.UNET,
                **UNET_FIXED,
                "block_out_channels": [320, 640, 1280, 1280],
                "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
                "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
                "cross_attention_dim": 1024,
                "use_linear_projection": True,
            }
        ),
        "vae": {**unet.VAE, **VAE_FIXED},
        "text_encoder": {
            **clip_towers.L,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 23,
            "num_attention_heads": 16,
            "hidden_act": "gelu",
        },
        "scheduler": dict(SCHEDULER),
    }


def architecture(shapes: Shapes) -> Architecture:
    tower = ldm.open_clip_config(shapes)
    return {
        "unet": unet.of_64(ldm.unet_config(shapes, UNET_FIXED)),
        "vae": ldm.vae_config(shapes, VAE_FIXED),
        "text_encoder": {**tower, "num_hidden_layers": tower["num_hidden_layers"] - LEFT_OUT},
        "scheduler": dict(SCHEDULER),
    }


prediction_type = unet.prediction_type


# ---------------------------------------------------------------------------------------------- building and loading


def build(architecture: Architecture, component: str) -> Any:
    return unet.build(architecture, component, KINDS)


def load(path: Path, base: plan.Base, component: str, dtype: torch.dtype) -> nn.Module:
    return unet.load(path, base, component, dtype, KINDS, tower_weights, TITLE)


def tower_weights(component: str, names: list[str], read: Callable[[str], Tensor]) -> dict[str, Tensor]:
    found = ldm.open_clip_weights(names, read)
    return {name.removeprefix("text_model."): weight for name, weight in found.items()}


def original_names(names: Sequence[str], architecture: Architecture) -> Mapping[str, Mapping[str, Original]]:
    tower = ldm.open_clip_names(list(names), architecture["text_encoder"]["hidden_size"])
    return {
        "unet": ldm.unet_weights(list(names), str, architecture["unet"]),
        "text_encoder": {ours.removeprefix("text_model."): theirs for ours, theirs in tower.items()},
    }


def load_tokenizers(path: Path, base: plan.Base) -> dict[str, Any]:
    return {"text_encoder": clip_vocabulary.of_base(path, base, "text_encoder", PAD)}


# ----------------------------------------------------------------------------- training and sampling: as SD 1 does


def targets(architecture: Architecture, preset: str, text_encoder: bool) -> dict[str, str]:
    return unet.targets(PRESETS, preset, TEXT_ENCODERS if text_encoder else ())


blocks = unet.blocks
tokenize = sd1.tokenize
caption_tokens = unet.caption_tokens
encode_text = sd1.encode_text
encode_picture = autoencoder.encode_picture
conditions = usual.conditions
decode = autoencoder.decode
example = sd1.example
draw = unet.draw
loss = sd1.loss
sample = sd1.sample


# ----------------------------------------------------------------------------------------------------------- naming


export_name = sd1.export_name


def metadata(base: plan.Base) -> dict[str, str]:
    v = base.prediction_type == "v_prediction"
    return {
        "ss_base_model_version": "sd_v2_v" if v else "sd_v2",
        "ss_v2": "True",
        "modelspec.architecture": f"stable-diffusion-v2-{'768-v' if v else '512'}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.prediction_type": "v" if v else "epsilon",
        "sd version": "SD2",
    }


# ------------------------------------------------------------------------------------------------------------- tiny


def tiny(folder: Path) -> Path:
    config = published()
    wide = {"block_out_channels": [64, 64, 64, 64], "cross_attention_dim": 64, "sample_size": 8}
    config["unet"] = unet.of_64(config["unet"] | wide)
    config["vae"] |= unet.TINY_VAE
    config["text_encoder"] |= tiny_parts.CLIP
    tokenizers = {"tokenizer": clip_vocabulary.tokenizer(tiny_parts.CLIP_WORDS, PAD)}
    return unet.write_folder(folder, config, build, tokenizers, sd1.INDEX)
