"""Stable Diffusion 1.x (Rombach et al. 2022): a UNet with cross-attention, CLIP-L's text tower, a KL autoencoder."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL.Image import Image
from torch import Generator, Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from runtime import plan
from runtime.families import clip_vocabulary, diffusion, ldm, loading
from runtime.families import objective as objectives
from runtime.families.protocol import Architecture, Batch, Modules, Shapes, Wish
from runtime.safeio import weights

NAME = "sd1"
TITLE = "Stable Diffusion 1.x"
KIND = "images"
EXPORTS = ("webui", "diffusers")
COMPONENTS = ("unet", "text_encoder", "vae")
BACKBONE = "unet"
TEXT_ENCODERS = ("text_encoder",)
TRAINED_TEXT_ENCODERS = TEXT_ENCODERS
STREAMED: dict[str, plan.Dtype] = {}
VAE = "vae"
BESIDE: tuple[str, ...] = ()
GRID = 64
CAPTION_TOKENS = 77
OBJECTIVE: dict[str, Any] = {}
SAMPLING = {"steps": 25, "guidance": 7.5}
CFG = True

# What SD 1.x fixes and a single file cannot say: configs/stable-diffusion/v1-inference.yaml of CompVis.
UNET_FIXED = {"attention_head_dim": 8, "norm_num_groups": 32, "sample_size": 64}
VAE_FIXED = {"norm_num_groups": 32, "scaling_factor": 0.18215, "sample_size": 512}
CLIP_HEAD_DIM = 64
SCHEDULER: dict[str, Any] = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "clip_sample": False,
}
PRESETS = {
    "qkv": (r".*\.attn[12]\.to_[qkv]", r".*\.self_attn\.[qkv]_proj"),
    "qkvo": (r".*\.attn[12]\.to_([qkv]|out\.0)", r".*\.self_attn\.([qkv]|out)_proj"),
    "qkvo+ff": (
        r".*\.(attn[12]\.to_([qkv]|out\.0)|ff\.net\.(0\.proj|2))",
        r".*\.(self_attn\.([qkv]|out)_proj|mlp\.fc[12])",
    ),
    "qkvo+ff+conv": (
        r".*\.(attn[12]\.to_([qkv]|out\.0)|ff\.net\.(0\.proj|2)|resnets\.\d+\.conv[12])",
        r".*\.(self_attn\.([qkv]|out)_proj|mlp\.fc[12])",
    ),
}


# ------------------------------------------------------------------------------------------------------ recognising


def recognise(shapes: Shapes) -> bool:
    return f"{ldm.UNET}input_blocks.0.0.weight" in shapes and any(n.startswith(ldm.CLIP) for n in shapes)


def recognise_folder(index: dict[str, Any], configs: dict[str, Any]) -> bool:
    unet = configs.get("unet", {})
    return (
        index.get("text_encoder", [None, None])[1] == "CLIPTextModel"
        and "text_encoder_2" not in index
        and index.get("unet", [None, None])[1] == "UNet2DConditionModel"
        and not unet.get("use_linear_projection", False)
    )


def recognise_config(config: dict[str, Any]) -> bool:
    return False


def published(name: str = "") -> Architecture:
    levels = [320, 640, 1280, 1280]
    return {
        "unet": {
            **UNET_FIXED,
            "in_channels": 4,
            "out_channels": 4,
            "block_out_channels": levels,
            "layers_per_block": 2,
            "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
            "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
            "cross_attention_dim": 768,
            "use_linear_projection": False,
        },
        "vae": {
            **VAE_FIXED,
            "in_channels": 3,
            "out_channels": 3,
            "latent_channels": 4,
            "block_out_channels": [128, 256, 512, 512],
            "layers_per_block": 2,
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
        },
        "text_encoder": {
            "vocab_size": 49408,
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "max_position_embeddings": 77,
            "hidden_act": "quick_gelu",
            "bos_token_id": 49406,
            "eos_token_id": 49407,
        },
        "scheduler": dict(SCHEDULER),
    }


def architecture(shapes: Shapes) -> Architecture:
    return {
        "unet": ldm.unet_config(shapes, UNET_FIXED),
        "vae": ldm.vae_config(shapes, VAE_FIXED),
        "text_encoder": ldm.clip_config(shapes, CLIP_HEAD_DIM),
        "scheduler": dict(SCHEDULER),
    }


def prediction_type(architecture: Architecture) -> plan.PredictionType:
    return "v_prediction" if architecture["scheduler"].get("prediction_type") == "v_prediction" else "epsilon"


# ---------------------------------------------------------------------------------------------- building and loading


def build(architecture: Architecture, component: str) -> Any:
    config = architecture[component]
    if component == "text_encoder":
        return CLIPTextModel(CLIPTextConfig(**config))
    return {"unet": UNet2DConditionModel, "vae": AutoencoderKL}[component].from_config(config)


def load(path: Path, base: plan.Base, component: str, dtype: torch.dtype) -> nn.Module:
    if base.layout == "diffusers":
        kind = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}[component]
        return loading.from_folder(path, component, kind, dtype)
    config = base.architecture[component]
    with weights.open_weights(path) as file:
        names = list(file)
        if component == "unet":
            state = ldm.unet_weights(names, file.load, config)
        elif component == "vae":
            state = ldm.vae_weights(names, file.load, config)
        else:
            state = ldm.clip_weights(names, file.load)
    make = partial(build, base.architecture, component)
    return loading.from_tensors(make, state, dtype, f"{path}: {component}", TITLE)


def original_names(names: Sequence[str], architecture: Architecture) -> dict[str, dict[str, str]]:
    return {
        "unet": ldm.unet_weights(list(names), str, architecture["unet"]),
        "text_encoder": ldm.clip_weights(list(names), str),
    }


def load_tokenizers(path: Path, base: plan.Base) -> dict[str, Any]:
    if base.layout == "diffusers":
        return {
            "text_encoder": CLIPTokenizer.from_pretrained(path, subfolder="tokenizer", local_files_only=True)
        }
    return {"text_encoder": clip_vocabulary.tokenizer(base.architecture["text_encoder"]["vocab_size"])}


# --------------------------------------------------------------------------------------------------------- training


def targets(architecture: Architecture, preset: str, text_encoder: bool) -> dict[str, str]:
    unet, text = (preset[3:],) * 2 if preset.startswith("re:") else PRESETS[preset]
    return {"unet": unet, **({"text_encoder": text} if text_encoder else {})}


def blocks(modules: Modules) -> dict[str, nn.Module]:
    pattern = re.compile(
        r"(down_blocks\.\d+|mid_block|up_blocks\.\d+)\.(resnets\.\d+|attentions\.\d+\.transformer_blocks\.\d+)"
    )
    unet = {
        f"unet.{n}": m
        for n, m in (modules["unet"].named_modules() if "unet" in modules else ())
        if pattern.fullmatch(n)
    }
    text = {
        f"text_encoder.{n}": m
        for n, m in (modules["text_encoder"].named_modules() if "text_encoder" in modules else ())
        if re.fullmatch(r"encoder\.layers\.\d+", n)
    }
    return text | unet


def tokenize(tokenizers: dict[str, Any], captions: Sequence[str]) -> Batch:
    tokenizer = tokenizers["text_encoder"]
    ids = tokenizer(
        list(captions),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return {"tokens": ids}


def caption_tokens(tokenizers: dict[str, Any], captions: Sequence[str]) -> list[int]:
    tokenizer = tokenizers["text_encoder"]
    return [len(ids) for ids in tokenizer(list(captions), truncation=False, verbose=False).input_ids]


def encode_text(modules: Modules, tokens: Batch) -> Batch:
    return {"hidden": modules["text_encoder"](tokens["tokens"])[0]}


def encode_picture(modules: Modules, pixels: Tensor) -> Batch:
    posterior = modules["vae"].encode(pixels).latent_dist
    return {"latent_mean": posterior.mean, "latent_std": posterior.std}


def conditions(item: plan.Item) -> Batch:
    return {}


def decode(modules: Modules, latents: Tensor) -> Tensor:
    vae = modules["vae"]
    return vae.decode(latents.to(vae.dtype)).sample


def example(architecture: Architecture, size: int, shape: plan.Shape, tokens: bool) -> Batch:
    width, height = shape
    vae, text = architecture["vae"], architecture["text_encoder"]
    factor = 2 ** (len(vae["block_out_channels"]) - 1)
    latent = torch.empty(size, vae["latent_channels"], height // factor, width // factor)
    length = text["max_position_embeddings"]
    return {
        "latent_mean": latent,
        "latent_std": torch.empty_like(latent),
        "noise": torch.empty_like(latent),
        "posterior": torch.empty_like(latent),
        "timestep": torch.zeros(size, dtype=torch.long),
        **(
            {"tokens": torch.zeros(size, length, dtype=torch.long)}
            if tokens
            else {"hidden": torch.empty(size, length, text["hidden_size"])}
        ),
    }


def draw(item: Batch, generator: Generator, objective: plan.Objective) -> Batch:
    return diffusion.draw(item["latent_mean"], generator, SCHEDULER["num_train_timesteps"], objective)


def loss(modules: Modules, batch: Batch, base: plan.Base, objective: plan.Objective) -> Tensor:
    unet = modules["unet"]
    scale = base.architecture["vae"]["scaling_factor"]
    latents = (batch["latent_mean"] + batch["latent_std"] * batch["posterior"]) * scale
    alpha = diffusion.alphas_cumprod(base.architecture["scheduler"], latents.device)[batch["timestep"]]
    hidden = batch["hidden"] if "hidden" in batch else encode_text(modules, batch)["hidden"]
    given = diffusion.noisy(latents, batch["noise"], alpha).to(unet.dtype)
    said = unet(given, batch["timestep"], encoder_hidden_states=hidden.to(unet.dtype)).sample
    wanted = diffusion.target(latents, batch["noise"], alpha, base.prediction_type)
    error = objectives.error(said, wanted, batch, objective)
    return error * diffusion.weight(alpha, base.prediction_type, objective.snr_gamma)


# --------------------------------------------------------------------------------------------------------- sampling


def sample(modules: Modules, tokenizers: dict[str, Any], base: plan.Base, wish: Wish) -> list[Image]:
    fixed = base.architecture["scheduler"]
    pipeline: Any = StableDiffusionPipeline(
        vae=modules["vae"],
        text_encoder=None,
        tokenizer=None,
        unet=modules["unet"],
        scheduler=DPMSolverMultistepScheduler(
            **{key: fixed[key] for key in ("beta_schedule", "beta_start", "beta_end", "num_train_timesteps")},
            prediction_type=base.prediction_type,
            timestep_spacing="leading",
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    device, count = modules["unet"].device, len(wish.seeds)
    tokens = tokenize(tokenizers, [wish.prompt, wish.negative_prompt])["tokens"].to(device)
    hidden = encode_text(modules, {"tokens": tokens})["hidden"].to(modules["unet"].dtype)
    latents = pipeline(
        prompt_embeds=hidden[:1].repeat(count, 1, 1),
        negative_prompt_embeds=hidden[1:].repeat(count, 1, 1),
        num_inference_steps=wish.steps,
        guidance_scale=wish.guidance,
        width=wish.width,
        height=wish.height,
        generator=[Generator("cpu").manual_seed(seed) for seed in wish.seeds],
        output_type="latent",
    ).images
    pixels = decode(modules, latents / base.architecture["vae"]["scaling_factor"])
    return pipeline.image_processor.postprocess(pixels.float(), output_type="pil")


# ----------------------------------------------------------------------------------------------------------- naming


def export_name(component: str, module: str) -> str:
    if component == "unet":
        return "lora_unet_" + module.replace(".", "_")
    # transformers >= 5.6 has no `text_model` level; A1111 and ComfyUI drop keys without it in silence
    # (outputs.md, rule 3).
    inner = module.removeprefix("text_model.")
    return "lora_te_text_model_" + inner.replace(".", "_")


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
    config["vae"] |= {"block_out_channels": [32, 32, 32], "layers_per_block": 1, "sample_size": 64}
    config["vae"] |= {
        "down_block_types": ["DownEncoderBlock2D"] * 3,
        "up_block_types": ["UpDecoderBlock2D"] * 3,
    }
    config["text_encoder"] |= {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2}
    config["text_encoder"] |= {"num_attention_heads": 1, "vocab_size": 1024}
    config["text_encoder"] |= {"bos_token_id": 1022, "eos_token_id": 1023}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for component in ("unet", "vae", "text_encoder"):
            build(config, component).half().save_pretrained(folder / component)
    clip_vocabulary.tokenizer(1024).save_pretrained(folder / "tokenizer")
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(
        json.dumps({"_class_name": "PNDMScheduler", **SCHEDULER, "skip_prk_steps": True}, indent=2)
    )
    library = {"unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    index = {
        "_class_name": "StableDiffusionPipeline",
        **library,
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return folder
