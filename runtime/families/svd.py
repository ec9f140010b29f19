"""Stable Video Diffusion (Blattmann et al. 2023, arXiv:2311.15127): a picture goes on as a clip.

A UNet in space and time is told the first frame twice, as CLIP sees it and as latents beside every frame's, and as
numbers how fast the clip is, how much moves, and how much noise the latents' frame had. Its noise is continuous, as
Karras et al. 2022 (EDM) have it: x = x₀ + sigma ε. What it says is v, so that EDM's weight and scaling leave the plain
square of v's error (λ c_out² = 1).

How many frames a clip has is the data's to say (`Images(frames=…)`): the same weights take any number. img2vid was
made for 14, img2vid-xt for 25; their files have the same tensors (`video_ldm`).

No captions and no text encoder. diffusers has no loader for its LoRAs: the file has the names of the UNet's modules,
which PEFT takes (`inject_adapter_in_model`, `set_peft_model_state_dict`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel
from PIL.Image import Image
from torch import Generator, Tensor, nn
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from runtime import plan
from runtime.errors import InputError, Problem
from runtime.families import autoencoder, bundles, ldm, loading, usual, video_ldm
from runtime.families import objective as objectives
from runtime.families import tiny as tiny_parts
from runtime.families.parts import Part
from runtime.families.protocol import Architecture, Batch, Modules, Original, Shapes, Wish

NAME = "svd"
TITLE = "Stable Video Diffusion"
KIND = "clips"
EXPORTS = ("diffusers",)
COMPONENTS = ("unet", "image_encoder", "vae")
BACKBONE = "unet"
TEXT_ENCODERS: tuple[str, ...] = ()
TRAINED_TEXT_ENCODERS: tuple[str, ...] = ()
WORD_FILES: dict[str, str] = {}
CLIP_SKIP = ""
STREAMED: dict[str, plan.Dtype] = {}
VAE = "vae"
BESIDE: tuple[str, ...] = ()
PARTS: dict[str, Part] = {}
GRID = 64
CAPTION_TOKENS = 0
OBJECTIVE: dict[str, Any] = {}
SAMPLING = {"steps": 25, "guidance": 3.0}
CFG = True

P_MEAN, P_STD = 0.7, 1.6
"""Of log sigma in training: the paper's appendix D.2, for the image-to-video models."""
NOISE_AUGMENTATION = 0.02
"""How much noise the first frame has before it is encoded: the pipeline's `noise_aug_strength`, here as there."""
CLIP_SIDE = 224
DECODED_AT_ONCE = 7

# What a single file cannot say: configs/inference/svd.yaml of Stability-AI/generative-models, OpenCLIP's ViT-H-14.json.
UNET_FIXED = {"sample_size": 96, "transformer_layers_per_block": 1}
UNET_HEAD = 64
VISION_HEAD = 80
VAE_FIXED = {"sample_size": 768, "scaling_factor": 0.18215}

ATTENTION = r".*\.attn[12]\.to_([qkv]|out\.0)"
PRESETS = {
    "qkvo": ATTENTION,
    "qkv": r".*\.attn[12]\.to_[qkv]",
    "qkvo+ff": rf"{ATTENTION}|.*\.ff(_in)?\.net\.(0\.proj|2)",
}
"""In space and in time alike."""

# scheduler_config.json of stabilityai/stable-video-diffusion-img2vid.
SCHEDULER: dict[str, Any] = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "interpolation_type": "linear",
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "use_karras_sigmas": True,
    "sigma_min": 0.002,
    "sigma_max": 700.0,
    "steps_offset": 1,
}


# ------------------------------------------------------------------------------------------------------ recognising


def recognise(shapes: Shapes) -> bool:
    if f"{ldm.UNET}input_blocks.1.1.time_stack.0.attn1.to_q.weight" not in shapes:
        return False
    if video_ldm.told_width(shapes) % video_ldm.TOLD:
        what = f"is a relative of {TITLE} that is told other things of a clip than it is, as SV3D is"
        hint = (
            "train on Stable Video Diffusion: svd.safetensors, svd_xt.safetensors or svd_xt_1_1.safetensors"
        )
        raise InputError(Problem("", what, hint))
    return True


def recognise_folder(index: dict[str, Any], configs: dict[str, Any]) -> bool:
    return index.get("unet", [None, None])[1] == "UNetSpatioTemporalConditionModel"


recognise_config = usual.recognise_config


def published(name: str = "") -> Architecture:
    """img2vid, of 14 frames; img2vid-xt differs in `num_frames` alone."""
    return {
        "unet": {
            **UNET_FIXED,
            "in_channels": 8,
            "out_channels": 4,
            "block_out_channels": [320, 640, 1280, 1280],
            "layers_per_block": 2,
            "down_block_types": ["CrossAttnDownBlockSpatioTemporal"] * 3 + ["DownBlockSpatioTemporal"],
            "up_block_types": ["UpBlockSpatioTemporal"] + ["CrossAttnUpBlockSpatioTemporal"] * 3,
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 768,
            "cross_attention_dim": 1024,
            "num_attention_heads": [5, 10, 20, 20],
            "num_frames": 14,
        },
        "image_encoder": {
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "num_hidden_layers": 32,
            "num_attention_heads": 16,
            "patch_size": 14,
            "image_size": CLIP_SIDE,
            "projection_dim": 1024,
            "hidden_act": "gelu",
        },
        "vae": {
            "in_channels": 3,
            "out_channels": 3,
            "latent_channels": 4,
            "block_out_channels": [128, 256, 512, 512],
            "layers_per_block": 2,
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            **VAE_FIXED,
        },
        "scheduler": dict(SCHEDULER),
    }


def architecture(shapes: Shapes) -> Architecture:
    parts = {
        "CLIP's vision tower": (video_ldm.VISION,),
        "the first frame's encoder": (video_ldm.ENCODER,),
        "the decoder over time, as svd_image_decoder.safetensors is": (video_ldm.OVER_TIME,),
    }
    bundles.require(shapes, TITLE, parts)
    return {
        "unet": video_ldm.unet_config(shapes, UNET_FIXED, UNET_HEAD),
        "image_encoder": video_ldm.vision_config(shapes, VISION_HEAD),
        "vae": video_ldm.vae_config(shapes, VAE_FIXED),
        "scheduler": dict(SCHEDULER),
    }


def prediction_type(architecture: Architecture) -> plan.PredictionType:
    return "v_prediction"


# ---------------------------------------------------------------------------------------------- building and loading

KINDS: dict[str, Any] = {
    "unet": UNetSpatioTemporalConditionModel,
    "image_encoder": CLIPVisionModelWithProjection,
    "vae": AutoencoderKLTemporalDecoder,
}


def build(architecture: Architecture, component: str) -> Any:
    config = architecture[component]
    if component == "image_encoder":
        return CLIPVisionModelWithProjection(CLIPVisionConfig(**config))
    return KINDS[component].from_config(config)


def load(path: Path, base: plan.Base, component: str, dtype: torch.dtype) -> nn.Module:
    return loading.load(path, base, component, dtype, KINDS, build, _weights, TITLE)


def _weights(
    architecture: Architecture, component: str, names: list[str], read: loading.Read
) -> Mapping[str, Tensor]:
    """A component's weights in a single file."""
    if component == "unet":
        return video_ldm.unet_weights(names, read, architecture[component])
    if component == "vae":
        return video_ldm.vae_weights(names, read, architecture[component])
    return video_ldm.vision_weights(names, read)


def original_names(names: Sequence[str], architecture: Architecture) -> Mapping[str, Mapping[str, Original]]:
    return {"unet": video_ldm.unet_weights(list(names), str, architecture["unet"])}


def load_tokenizers(path: Path, base: plan.Base) -> dict[str, Any]:
    return {}


# --------------------------------------------------------------------------------------------------------- training


def targets(architecture: Architecture, preset: str, text_encoder: bool) -> dict[str, str]:
    return {BACKBONE: usual.pattern(PRESETS, preset)}


def blocks(modules: Modules) -> dict[str, nn.Module]:
    inner = r"(resnets\.\d+|attentions\.\d+\.(temporal_)?transformer_blocks\.\d+)"
    pattern = re.compile(rf"(down_blocks\.\d+|mid_block|up_blocks\.\d+)\.{inner}")
    return {
        f"unet.{name}": module
        for name, module in (modules["unet"].named_modules() if "unet" in modules else ())
        if pattern.fullmatch(name)
    }


def tokenize(tokenizers: dict[str, Any], captions: Sequence[str]) -> Batch:
    return {}


def caption_tokens(tokenizers: dict[str, Any], captions: Sequence[str]) -> list[int]:
    return [0] * len(captions)


def encode_text(modules: Modules, tokens: Batch) -> Batch:
    return {}


def encode_picture(modules: Modules, pixels: Tensor) -> Batch:
    """Of clips (N, frames, 3, H, W): latents' distribution (N, frames, 4, h, w), what CLIP sees of the first frame
    (N, 1, width), and that frame's latents with some noise on it (N, 4, h, w)."""
    vae, seen = modules["vae"], modules["image_encoder"]
    first = pixels[:, 0]
    fixed = Generator("cpu").manual_seed(0)  # drawn alike for each clip: what is cached must not change
    noise = torch.randn(first.shape, generator=fixed, device="cpu").to(first)
    films = [
        [vae.encode(frame[None]).latent_dist for frame in film] for film in pixels
    ]  # one frame at a time
    return {
        "latent_mean": torch.stack([torch.cat([one.mean for one in film]) for film in films]),
        "latent_std": torch.stack([torch.cat([one.std for one in film]) for film in films]),
        "image": seen(_as_clip_sees(first).to(seen.dtype)).image_embeds.unsqueeze(1),
        "first": vae.encode(first + NOISE_AUGMENTATION * noise).latent_dist.mode(),
    }


def _as_clip_sees(pictures: Tensor) -> Tensor:
    """Pictures (N, 3, H, W) in [-1, 1] as the pipeline shows them to CLIP."""
    from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import (
        _resize_with_antialiasing,
    )

    small = (_resize_with_antialiasing(pictures, (CLIP_SIDE, CLIP_SIDE)) + 1) / 2
    usual = CLIPImageProcessor()
    mean, std = (
        torch.tensor(one, device=small.device).view(3, 1, 1) for one in (usual.image_mean, usual.image_std)
    )
    return (small - mean) / std


def conditions(item: plan.Item, corner: tuple[int, int]) -> Batch:
    """How fast the clip is, how much moves, how much noise its first frame had: `added` (3,)."""
    assert item.clip is not None
    # The model was told one frame a second less than there were (the pipeline's note on fps).
    return {"added": torch.tensor([item.clip.fps - 1, item.clip.motion, NOISE_AUGMENTATION])}


def decode(modules: Modules, latents: Tensor) -> Tensor:
    """Latents (N, frames, 4, h, w) -> the frames of one clip after the other, (N · frames, 3, H, W)."""
    vae = modules["vae"]
    parts = [part for film in latents.to(vae.dtype) for part in film.split(DECODED_AT_ONCE)]
    return torch.cat([vae.decode(part, num_frames=len(part)).sample for part in parts])


def example(architecture: Architecture, size: int, shape: plan.Shape, tokens: bool) -> Batch:
    width, height, frames = shape
    unet, vae = architecture["unet"], architecture["vae"]
    factor = 2 ** (len(vae["block_out_channels"]) - 1)
    latent = torch.empty(size, frames, vae["latent_channels"], height // factor, width // factor)
    return {
        **{name: torch.empty_like(latent) for name in ("latent_mean", "latent_std", "noise", "posterior")},
        "first": torch.empty_like(latent[:, 0]),
        "image": torch.empty(size, 1, unet["cross_attention_dim"]),
        "added": torch.empty(size, 3),
        "sigma": torch.empty(size),
    }


def draw(item: Batch, generator: Generator, objective: plan.Objective) -> Batch:
    """`noise` and `posterior` like the latents (frames, C, h, w); `sigma`, a scalar above 0."""
    latent = item["latent_mean"]
    normal = torch.randn((), generator=generator)
    noise = torch.randn(latent.shape, generator=generator)
    posterior = torch.randn(latent.shape, generator=generator)
    offset = torch.randn((1, latent.shape[1], 1, 1), generator=generator)
    return {
        "sigma": (P_MEAN + P_STD * normal).exp(),
        "noise": noise + objective.noise_offset * offset,
        "posterior": posterior,
    }


def loss(modules: Modules, batch: Batch, base: plan.Base, objective: plan.Objective) -> Tensor:
    unet, noise = modules["unet"], batch["noise"]
    latents = autoencoder.drawn(batch) * base.architecture["vae"]["scaling_factor"]
    sigma = batch["sigma"].view(-1, 1, 1, 1, 1)
    size = (sigma**2 + 1).sqrt()
    noisy = (latents + sigma * noise) / size
    first = batch["first"].unsqueeze(1).expand_as(noisy)
    said = unet(
        torch.cat([noisy, first], dim=2).to(unet.dtype),
        batch["sigma"].log() / 4,
        encoder_hidden_states=batch["image"].to(unet.dtype),
        added_time_ids=batch["added"].to(unet.dtype),
    ).sample
    return objectives.error(said, (noise - sigma * latents) / size, batch, objective)


# --------------------------------------------------------------------------------------------------------- sampling


def sample(modules: Modules, tokenizers: dict[str, Any], base: plan.Base, wish: Wish) -> list[Image]:
    """The frames of a clip that begins with `wish.start`, one clip after the other for each seed."""
    assert wish.start is not None and wish.clip is not None
    unet, vae = modules["unet"], modules["vae"]
    pipeline: Any = diffusers.StableVideoDiffusionPipeline(
        vae=vae,
        image_encoder=modules["image_encoder"],
        unet=unet,
        scheduler=diffusers.EulerDiscreteScheduler.from_config(base.architecture["scheduler"]),
        feature_extractor=CLIPImageProcessor(),
    )
    pipeline.set_progress_bar_config(disable=True)
    films = []
    # The pipeline computes in the dtype of what CLIP says, which is held in another one than the UNet.
    cast = modules["image_encoder"].register_forward_hook(lambda _, __, said: _in_dtype(said, unet.dtype))
    try:
        for seed in wish.seeds:
            films += pipeline(
                wish.start,
                num_inference_steps=wish.steps,
                max_guidance_scale=wish.guidance,
                width=wish.width,
                height=wish.height,
                num_frames=len(wish.clip.frames),
                fps=wish.clip.fps,
                motion_bucket_id=wish.clip.motion,
                noise_aug_strength=NOISE_AUGMENTATION,
                generator=Generator("cpu").manual_seed(seed),
                output_type="latent",
            ).frames
    finally:
        cast.remove()
    pixels = decode(modules, torch.stack(films).float() / base.architecture["vae"]["scaling_factor"])
    return pipeline.video_processor.postprocess(pixels.float(), output_type="pil")


def _in_dtype(said: Any, dtype: torch.dtype) -> Any:
    said.image_embeds = said.image_embeds.to(dtype)
    return said


# ----------------------------------------------------------------------------------------------------------- naming


export_name = usual.export_name


def metadata(base: plan.Base) -> dict[str, str]:
    return {"modelspec.architecture": "stable-video-diffusion/lora", "modelspec.implementation": "diffusers"}


# ------------------------------------------------------------------------------------------------------------- tiny


def tiny(folder: Path) -> Path:
    config = published()
    config["unet"] |= {"block_out_channels": [UNET_HEAD] * 4, "cross_attention_dim": 32, "num_frames": 3}
    config["unet"] |= {"num_attention_heads": [1] * 4, "layers_per_block": 1, "sample_size": 8}
    config["unet"] |= {"addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 24}
    config["image_encoder"] |= {"hidden_size": VISION_HEAD, "intermediate_size": 32, "num_hidden_layers": 2}
    config["image_encoder"] |= {"num_attention_heads": 1, "patch_size": 56, "projection_dim": 32}
    config["vae"] |= tiny_parts.VAE | {
        "layers_per_block": 2
    }  # the decoder's middle has as many, in a file two
    tiny_parts.write(folder, config, build, COMPONENTS)
    CLIPImageProcessor().save_pretrained(folder / "feature_extractor")
    classes = {
        "unet": "UNetSpatioTemporalConditionModel",
        "image_encoder": "CLIPVisionModelWithProjection",
        "vae": "AutoencoderKLTemporalDecoder",
        "feature_extractor": "CLIPImageProcessor",
        "scheduler": "EulerDiscreteScheduler",
    }
    tiny_parts.write_index(folder, "StableVideoDiffusionPipeline", classes, config["scheduler"])
    return folder
