"""Stable Diffusion XL's base (Podell et al. 2023, arXiv:2307.01952): a UNet without attention at its first level, told
the words by CLIP-L and by OpenCLIP-bigG, and the picture's size and crop.

- Words are the two towers' states before their last layers, side by side; bigG's pooled projection goes with the sizes
  into the time embedding (sections 2.1 and 2.2 there; `sd_xl_base.yaml` of Stability-AI/generative-models).
- The refiner, which is told an aesthetic score and reads bigG alone, is known by sight and refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from PIL.Image import Image
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from runtime import plan
from runtime.errors import InputError, Problem
from runtime.families import autoencoder, clip_towers, clip_vocabulary, drawing, ldm, tokenizing, unet, usual
from runtime.families import tiny as tiny_parts
from runtime.families.parts import Part
from runtime.families.protocol import Architecture, Batch, Modules, Original, Shapes, Wish

NAME = "sdxl"
TITLE = "Stable Diffusion XL"
KIND = "images"
EXPORTS = ("webui", "diffusers")
COMPONENTS = ("unet", "text_encoder", "text_encoder_2", "vae")
BACKBONE = "unet"
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
TRAINED_TEXT_ENCODERS = TEXT_ENCODERS
WORD_FILES = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
CLIP_SKIP = ""
STREAMED: dict[str, plan.Dtype] = {}
BESIDE: tuple[str, ...] = ()
PARTS: dict[str, Part] = {}
VAE = "vae"
GRID = unet.GRID
CAPTION_TOKENS = unet.CAPTION_TOKENS
OBJECTIVE: dict[str, Any] = {}
SAMPLING = {"steps": 30, "guidance": 5.0}
CFG = True

CLIP = "conditioner.embedders.0.transformer."
BIG_G = "conditioner.embedders.1.model."
REFINER_BIG_G = "conditioner.embedders.0.model."
V_MARK = "v_pred"
"""A key without content by which the fine-tuned files that predict v are told apart (ComfyUI's model_detection)."""
ZERO_SNR_MARK = "ztsnr"
"""Another one beside it: the schedule ends in pure noise (ComfyUI's supported_models)."""
SIZES = 6
"""Numbers in `time_ids`: the picture's height and width, the crop's top and left, the height and width trained at."""

# What a single file cannot say: configs/inference/sd_xl_base.yaml of Stability-AI/generative-models.
UNET_FIXED = {"norm_num_groups": 32, "sample_size": 128, "addition_embed_type": "text_time"}
VAE_FIXED = {"norm_num_groups": 32, "scaling_factor": 0.13025, "sample_size": 1024}
PADS = {"text_encoder": clip_vocabulary.END, "text_encoder_2": clip_vocabulary.OPEN_CLIP_PAD}
TOKENS = {"text_encoder": "tokens", "text_encoder_2": "tokens_2"}
KINDS = {**unet.KINDS, "text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
PRESETS = unet.OPEN_CLIP_PRESETS


# ------------------------------------------------------------------------------------------------------ recognising


def recognise(shapes: Shapes) -> bool:
    if any(name.startswith(REFINER_BIG_G) for name in shapes):
        raise _refiner()
    entry = shapes.get(f"{ldm.UNET}input_blocks.0.0.weight", ())
    return entry[1:2] == (4,) and any(name.startswith(BIG_G) for name in shapes)


def recognise_folder(index: dict[str, Any], configs: dict[str, Any]) -> bool:
    kinds = {name: value[1] for name, value in index.items() if isinstance(value, list) and len(value) == 2}
    is_xl = (kinds.get("unet"), kinds.get("text_encoder_2")) == (
        "UNet2DConditionModel",
        "CLIPTextModelWithProjection",
    )
    if is_xl and kinds.get("text_encoder") is None:
        raise _refiner()
    return is_xl and configs.get("unet", {}).get("in_channels", 4) == 4


def _refiner() -> InputError:
    what = "is Stable Diffusion XL's refiner, which only goes over the base's pictures"
    return InputError(
        Problem("", what, "train on Stable Diffusion XL's base; its LoRA is for the base alone")
    )


recognise_config = usual.recognise_config


def published(name: str = "") -> Architecture:
    return {
        "unet": unet.of_64(
            {
                **unet.UNET,
                **UNET_FIXED,
                "block_out_channels": [320, 640, 1280],
                "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
                "up_block_types": ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"],
                "transformer_layers_per_block": [1, 2, 10],
                "cross_attention_dim": 2048,
                "use_linear_projection": True,
                "addition_time_embed_dim": 256,
                "projection_class_embeddings_input_dim": 2816,
            }
        ),
        "vae": {**unet.VAE, **VAE_FIXED},
        "text_encoder": dict(clip_towers.L),
        "text_encoder_2": dict(clip_towers.BIG_G),
        "scheduler": dict(unet.SCHEDULER),
    }


def architecture(shapes: Shapes) -> Architecture:
    pooled = shapes[f"{BIG_G}text_projection"][1]
    added = shapes[f"{ldm.UNET}label_emb.0.0.weight"][1]
    return {
        "unet": {
            **unet.of_64(ldm.unet_config(shapes, UNET_FIXED)),
            "transformer_layers_per_block": ldm.transformer_depths(shapes),
            "addition_time_embed_dim": (added - pooled) // SIZES,
            "projection_class_embeddings_input_dim": added,
        },
        "vae": ldm.vae_config(shapes, VAE_FIXED),
        "text_encoder": ldm.clip_config(shapes, CLIP),
        "text_encoder_2": {**ldm.open_clip_config(shapes, BIG_G), "projection_dim": pooled},
        "scheduler": {
            **unet.SCHEDULER,
            "prediction_type": "v_prediction" if V_MARK in shapes else "epsilon",
            **({plan.ZERO_SNR: True} if {V_MARK, ZERO_SNR_MARK} <= set(shapes) else {}),
        },
    }


prediction_type = unet.prediction_type


# ---------------------------------------------------------------------------------------------- building and loading


def build(architecture: Architecture, component: str) -> Any:
    return unet.build(architecture, component, KINDS)


def load(path: Path, base: plan.Base, component: str, dtype: torch.dtype) -> nn.Module:
    return unet.load(path, base, component, dtype, KINDS, tower_weights, TITLE)


def tower_weights(component: str, names: list[str], read: Callable[[str], Tensor]) -> dict[str, Tensor]:
    if component == "text_encoder":
        return ldm.clip_weights(names, read, CLIP)
    return ldm.open_clip_weights(names, read, BIG_G)


def original_names(names: Sequence[str], architecture: Architecture) -> Mapping[str, Mapping[str, Original]]:
    width = architecture["text_encoder_2"]["hidden_size"]
    return {
        "unet": ldm.unet_weights(list(names), str, architecture["unet"]),
        "text_encoder": ldm.clip_weights(list(names), str, CLIP),
        "text_encoder_2": ldm.open_clip_names(list(names), width, BIG_G),
    }


def load_tokenizers(path: Path, base: plan.Base) -> dict[str, Any]:
    return {tower: clip_vocabulary.of_base(path, base, tower, pad) for tower, pad in PADS.items()}


# --------------------------------------------------------------------------------------------------------- training


def targets(architecture: Architecture, preset: str, text_encoder: bool) -> dict[str, str]:
    found = unet.targets(PRESETS, preset, TEXT_ENCODERS if text_encoder else ())
    if text_encoder:
        # Nothing of CLIP-L's last layer reaches the UNet, so nothing there would learn.
        last = architecture["text_encoder"]["num_hidden_layers"] - 1
        found["text_encoder"] = rf"(?!encoder\.layers\.{last}\.)(?:{found['text_encoder']})"
    return found


blocks = unet.blocks
caption_tokens = unet.caption_tokens
encode_picture = autoencoder.encode_picture
decode = autoencoder.decode
draw = unet.draw


def tokenize(tokenizers: dict[str, Any], captions: Sequence[str]) -> Batch:
    return {key: tokenizing.ids(tokenizers[tower], captions) for tower, key in TOKENS.items()}


def encode_text(modules: Modules, tokens: Batch) -> Batch:
    said = [modules[tower](tokens[key], output_hidden_states=True) for tower, key in TOKENS.items()]
    return {
        "hidden": torch.cat([one.hidden_states[-2] for one in said], dim=-1),
        "pooled": said[1].text_embeds,
    }


def conditions(item: plan.Item, corner: tuple[int, int]) -> Batch:
    """The picture's own size, where it is cropped, counted in its pixels once resized, as the paper does, and to which
    size."""
    width, height = item.bucket
    return {"time_ids": torch.tensor([item.height, item.width, *corner, height, width])}


def example(architecture: Architecture, size: int, shape: plan.Shape, tokens: bool) -> Batch:
    length = architecture["text_encoder"]["max_position_embeddings"]
    told = (
        {key: torch.zeros(size, length, dtype=torch.long) for key in TOKENS.values()}
        if tokens
        else {
            "hidden": torch.empty(size, length, architecture["unet"]["cross_attention_dim"]),
            "pooled": torch.empty(size, architecture["text_encoder_2"]["projection_dim"]),
        }
    )
    sizes = {"time_ids": torch.zeros(size, SIZES, dtype=torch.long)}
    return unet.example(architecture, size, shape) | told | sizes


def loss(modules: Modules, batch: Batch, base: plan.Base, objective: plan.Objective) -> Tensor:
    text = batch if "hidden" in batch else encode_text(modules, batch)
    denoiser = modules["unet"]
    added = {"text_embeds": text["pooled"].to(denoiser.dtype), "time_ids": batch["time_ids"]}
    return unet.loss(denoiser, text["hidden"], batch, base, objective, added)


# --------------------------------------------------------------------------------------------------------- sampling


def sample(modules: Modules, tokenizers: dict[str, Any], base: plan.Base, wish: Wish) -> list[Image]:
    """Pictures that are told to be uncropped and of their own size. An empty negative prompt is encoded, as a dropped
    caption is."""
    pipeline = diffusers.StableDiffusionXLPipeline(
        vae=modules["vae"],
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
        unet=modules["unet"],
        scheduler=unet.solver(base),
        add_watermarker=False,
    )
    device, dtype = modules["unet"].device, modules["unet"].dtype
    tokens = tokenize(tokenizers, [wish.prompt, wish.negative_prompt])
    said = encode_text(modules, {name: ids.to(device) for name, ids in tokens.items()})
    text = drawing.with_and_without(*(said[name].to(dtype) for name in ("hidden", "pooled")))
    return unet.drawn(pipeline, modules, base, wish, text)


# ----------------------------------------------------------------------------------------------------------- naming

PREFIXES = {"text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}
PER_LEVEL = 3
"""Blocks of a level in the original layout: two layers, and the way down; up, three layers."""
RESNET = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}


def _inner(kind: str, rest: str) -> str:
    return f"0.{RESNET.get(rest, rest)}" if kind == "resnets" else f"1.{rest}"


ORIGINAL: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (r"conv_in", lambda m: "input_blocks.0.0"),
    (r"conv_out", lambda m: "out.2"),
    (r"time_embedding\.linear_(\d)", lambda m: f"time_embed.{2 * int(m[1]) - 2}"),
    (r"add_embedding\.linear_(\d)", lambda m: f"label_emb.0.{2 * int(m[1]) - 2}"),
    (
        r"down_blocks\.(\d)\.(resnets|attentions)\.(\d)\.(.+)",
        lambda m: f"input_blocks.{PER_LEVEL * int(m[1]) + int(m[3]) + 1}.{_inner(m[2], m[4])}",
    ),
    (
        r"down_blocks\.(\d)\.downsamplers\.0\.conv",
        lambda m: f"input_blocks.{PER_LEVEL * int(m[1]) + PER_LEVEL}.0.op",
    ),
    (r"mid_block\.resnets\.(\d)\.(.+)", lambda m: f"middle_block.{2 * int(m[1])}.{RESNET.get(m[2], m[2])}"),
    (r"mid_block\.attentions\.0\.(.+)", lambda m: f"middle_block.1.{m[1]}"),
    (
        r"up_blocks\.(\d)\.(resnets|attentions)\.(\d)\.(.+)",
        lambda m: f"output_blocks.{PER_LEVEL * int(m[1]) + int(m[3])}.{_inner(m[2], m[4])}",
    ),
    (
        r"up_blocks\.(\d)\.upsamplers\.0\.conv",
        lambda m: f"output_blocks.{PER_LEVEL * int(m[1]) + PER_LEVEL - 1}.2.conv",
    ),
)
"""diffusers' module -> its name in the original layout, which kohya's trainer and all consumers call it by
(facts/outputs.md 1.3)."""


def export_name(component: str, module: str) -> str:
    if component != "unet":
        return unet.clip_name(PREFIXES[component], module)
    found = (rename(m) for pattern, rename in ORIGINAL if (m := re.fullmatch(pattern, module)))
    return "lora_unet_" + next(found, module).replace(".", "_")


def metadata(base: plan.Base) -> dict[str, str]:
    return {
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_v2": "False",
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models",
        "modelspec.prediction_type": "v" if base.prediction_type == "v_prediction" else "epsilon",
        "sd version": "SDXL",
    }


# ------------------------------------------------------------------------------------------------------------- tiny

INDEX = {
    "_class_name": "StableDiffusionXLPipeline",
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    "force_zeros_for_empty_prompt": True,
}
"""The model_index.json of a published folder."""


def tiny(folder: Path) -> Path:
    config = published()
    width = tiny_parts.CLIP["hidden_size"]
    wide = {"block_out_channels": [64, 64, 64], "cross_attention_dim": 2 * width, "sample_size": 8}
    told = {"addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": width + 8 * SIZES}
    config["unet"] = unet.of_64(config["unet"] | wide | told | {"transformer_layers_per_block": [1, 1, 2]})
    config["vae"] |= unet.TINY_VAE
    config["text_encoder"] |= tiny_parts.CLIP
    config["text_encoder_2"] |= tiny_parts.CLIP | {"projection_dim": width}
    tokenizers = {
        clip_vocabulary.folder(tower): clip_vocabulary.tokenizer(tiny_parts.CLIP_WORDS, pad)
        for tower, pad in PADS.items()
    }
    return unet.write_folder(folder, config, build, tokenizers, INDEX)
