"""Stable Diffusion 1.x (Rombach et al. 2022): a UNet with cross-attention, CLIP-L's text tower, a KL autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from PIL.Image import Image
from torch import Tensor, nn
from transformers import CLIPTextModel

from runtime import plan
from runtime.families import autoencoder, clip_towers, clip_vocabulary, ldm, tokenizing, unet, usual
from runtime.families import tiny as tiny_parts
from runtime.families.parts import Part
from runtime.families.protocol import Architecture, Batch, Modules, Original, Shapes, Wish

NAME = "sd1"
TITLE = "Stable Diffusion 1.x"
KIND = "images"
EXPORTS = ("webui", "diffusers")
COMPONENTS = ("unet", "text_encoder", "vae")
BACKBONE = "unet"
TEXT_ENCODERS = ("text_encoder",)
TRAINED_TEXT_ENCODERS = TEXT_ENCODERS
WORD_FILES = {"text_encoder": "emb_params"}
CLIP_SKIP = "text_encoder"
STREAMED: dict[str, plan.Dtype] = {}
VAE = "vae"
BESIDE: tuple[str, ...] = ()
PARTS: dict[str, Part] = {}
GRID = unet.GRID
CAPTION_TOKENS = unet.CAPTION_TOKENS
OBJECTIVE: dict[str, Any] = {}
SAMPLING = {"steps": 25, "guidance": 7.5}
CFG = True

# What SD 1.x fixes and a single file cannot say: configs/stable-diffusion/v1-inference.yaml of CompVis.
UNET_FIXED = {"attention_head_dim": 8, "norm_num_groups": 32, "sample_size": 64}
VAE_FIXED = {"norm_num_groups": 32, "scaling_factor": 0.18215, "sample_size": 512}
KINDS = {**unet.KINDS, "text_encoder": CLIPTextModel}
PRESETS = unet.PRESETS
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "safety_checker": [None, None],
    "feature_extractor": [None, None],
    "requires_safety_checker": False,
}
"""The model_index.json of a published folder."""


# ------------------------------------------------------------------------------------------------------ recognising


def recognise(shapes: Shapes) -> bool:
    return f"{ldm.UNET}input_blocks.0.0.weight" in shapes and any(n.startswith(ldm.CLIP) for n in shapes)


def recognise_folder(index: dict[str, Any], configs: dict[str, Any]) -> bool:
    return unet.reads_clip(index) and not configs.get("unet", {}).get("use_linear_projection", False)


recognise_config = usual.recognise_config


def published(name: str = "") -> Architecture:
    return {
        "unet": {
            **unet.UNET,
            **UNET_FIXED,
            "block_out_channels": [320, 640, 1280, 1280],
            "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
            "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
            "cross_attention_dim": 768,
            "use_linear_projection": False,
        },
        "vae": {**unet.VAE, **VAE_FIXED},
        "text_encoder": dict(clip_towers.L),
        "scheduler": dict(unet.SCHEDULER),
    }


def architecture(shapes: Shapes) -> Architecture:
    return {
        "unet": ldm.unet_config(shapes, UNET_FIXED),
        "vae": ldm.vae_config(shapes, VAE_FIXED),
        "text_encoder": ldm.clip_config(shapes),
        "scheduler": dict(unet.SCHEDULER),
    }


prediction_type = unet.prediction_type


# ---------------------------------------------------------------------------------------------- building and loading


def build(architecture: Architecture, component: str) -> Any:
    return unet.build(architecture, component, KINDS)


def load(path: Path, base: plan.Base, component: str, dtype: torch.dtype) -> nn.Module:
    made = unet.load(path, base, component, dtype, KINDS, tower_weights, TITLE)
    if component == CLIP_SKIP:
        return clip_towers.read_at(made, base.architecture[component]["num_hidden_layers"])
    return made


def tower_weights(component: str, names: list[str], read: Callable[[str], Tensor]) -> dict[str, Tensor]:
    return ldm.clip_weights(names, read)


def original_names(names: Sequence[str], architecture: Architecture) -> Mapping[str, Mapping[str, Original]]:
    return {
        "unet": ldm.unet_weights(list(names), str, architecture["unet"]),
        "text_encoder": ldm.clip_weights(list(names), str),
    }


def load_tokenizers(path: Path, base: plan.Base) -> dict[str, Any]:
    return {"text_encoder": clip_vocabulary.of_base(path, base, "text_encoder")}


# --------------------------------------------------------------------------------------------------------- training


def targets(architecture: Architecture, preset: str, text_encoder: bool) -> dict[str, str]:
    return unet.targets(PRESETS, preset, TEXT_ENCODERS if text_encoder else ())


blocks = unet.blocks
caption_tokens = unet.caption_tokens
encode_picture = autoencoder.encode_picture
decode = autoencoder.decode
draw = unet.draw
conditions = usual.conditions


def tokenize(tokenizers: dict[str, Any], captions: Sequence[str]) -> Batch:
    return {"tokens": tokenizing.ids(tokenizers["text_encoder"], captions)}


def encode_text(modules: Modules, tokens: Batch) -> Batch:
    return {"hidden": modules["text_encoder"](tokens["tokens"])[0]}


def example(architecture: Architecture, size: int, shape: plan.Shape, tokens: bool) -> Batch:
    text = architecture["text_encoder"]
    length = text["max_position_embeddings"]
    told = (
        {"tokens": torch.zeros(size, length, dtype=torch.long)}
        if tokens
        else {"hidden": torch.empty(size, length, text["hidden_size"])}
    )
    return unet.example(architecture, size, shape) | told


def loss(modules: Modules, batch: Batch, base: plan.Base, objective: plan.Objective) -> Tensor:
    hidden = batch["hidden"] if "hidden" in batch else encode_text(modules, batch)["hidden"]
    return unet.loss(modules["unet"], hidden, batch, base, objective)


# --------------------------------------------------------------------------------------------------------- sampling


def sample(modules: Modules, tokenizers: dict[str, Any], base: plan.Base, wish: Wish) -> list[Image]:
    pipeline = diffusers.StableDiffusionPipeline(
        vae=modules["vae"],
        text_encoder=None,
        tokenizer=None,
        unet=modules["unet"],
        scheduler=unet.solver(base),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    tokens = tokenize(tokenizers, [wish.prompt, wish.negative_prompt])["tokens"].to(modules["unet"].device)
    hidden = encode_text(modules, {"tokens": tokens})["hidden"].to(modules["unet"].dtype)
    text = {"prompt_embeds": hidden[:1], "negative_prompt_embeds": hidden[1:]}
    return unet.drawn(pipeline, modules, base, wish, text)


# ----------------------------------------------------------------------------------------------------------- naming


def export_name(component: str, module: str) -> str:
    if component == "unet":
        return "lora_unet_" + module.replace(".", "_")
    return unet.clip_name("lora_te", module)


def metadata(base: plan.Base) -> dict[str, str]:
    v = base.prediction_type == "v_prediction"
    return {
        "ss_base_model_version": "sd_v1_v" if v else "sd_v1",
        "ss_v2": "False",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.prediction_type": "v" if v else "epsilon",
        "sd version": "SD1",
    }


# ------------------------------------------------------------------------------------------------------------- tiny


def tiny(folder: Path) -> Path:
    config = published()
    config["unet"] |= {"block_out_channels": [32, 32, 32, 32], "cross_attention_dim": 64, "sample_size": 8}
    config["vae"] |= unet.TINY_VAE
    config["text_encoder"] |= tiny_parts.CLIP
    tokenizers = {"tokenizer": clip_vocabulary.tokenizer(tiny_parts.CLIP_WORDS)}
    return unet.write_folder(folder, config, build, tokenizers, INDEX)
