"""What Stable Diffusion 1, 2 and XL share: a UNet that reads CLIP's words, a discrete noise schedule, a KL autoencoder.

diffusers' names throughout. What a family has of its own (its text towers, what else its UNet is told, its names in
files) is in its own file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL.Image import Image
from torch import Generator, Tensor, nn
from transformers import CLIPTextConfig

from runtime import plan
from runtime.families import autoencoder, diffusion, drawing, ldm, loading, tiny, tokenizing
from runtime.families.protocol import Architecture, Batch, Modules, Wish

KINDS: dict[str, Any] = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}
GRID = 64
CAPTION_TOKENS = 77

UNET: dict[str, Any] = {"in_channels": 4, "out_channels": 4, "layers_per_block": 2, "norm_num_groups": 32}
VAE: dict[str, Any] = {**autoencoder.PUBLISHED, "latent_channels": 4, "norm_num_groups": 32}
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
"""`linear_start` and `linear_end` of every config of CompVis/stable-diffusion and Stability-AI/generative-models."""

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
"""The UNet's layers, and a text tower's."""

OPEN_CLIP_PRESETS = {**PRESETS, "qkv": (PRESETS["qkv"][0], PRESETS["qkvo"][1])}
"""An OpenCLIP tower's attention whole: WebUI applies nothing of it where one of q, k, v and out is not there, and says
so nowhere (facts/outputs.md rule 7)."""


# ---------------------------------------------------------------------------------------------------- architecture


def reads_clip(index: Mapping[str, Any]) -> bool:
    """Whether a diffusers folder is a UNet with one CLIP text tower, by its model_index.json."""
    kinds = {name: value[1] for name, value in index.items() if isinstance(value, list) and len(value) == 2}
    return (
        kinds.get("text_encoder") == "CLIPTextModel"
        and kinds.get("unet") == "UNet2DConditionModel"
        and "text_encoder_2" not in index
    )


def of_64(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with heads of 64 channels, as SD 2 and XL have; diffusers calls their number `attention_head_dim`."""
    return {**config, "attention_head_dim": [width // 64 for width in config["block_out_channels"]]}


def prediction_type(architecture: Architecture) -> plan.PredictionType:
    return "v_prediction" if architecture["scheduler"].get("prediction_type") == "v_prediction" else "epsilon"


# ---------------------------------------------------------------------------------------------- building and loading

Kinds = Mapping[str, Any]
"""Component -> its class in diffusers or transformers."""
TowerWeights = Callable[[str, list[str], loading.Read], Mapping[str, Tensor]]
"""(component, a single file's names, how one is read) -> a text tower's weights under transformers' names."""


def build(architecture: Architecture, component: str, kinds: Kinds) -> Any:
    if component.startswith("text_encoder"):
        return kinds[component](CLIPTextConfig(**architecture[component]))
    return kinds[component].from_config(architecture[component])


def load(
    path: Path,
    base: plan.Base,
    component: str,
    dtype: torch.dtype,
    kinds: Kinds,
    towers: TowerWeights,
    title: str,
) -> nn.Module:
    made = partial(build, kinds=kinds)
    return loading.load(path, base, component, dtype, kinds, made, partial(_weights, towers), title)


def _weights(
    towers: TowerWeights, architecture: Architecture, component: str, names: list[str], read: loading.Read
) -> Mapping[str, Tensor]:
    """A component's weights in a single file."""
    if component == "unet":
        return ldm.unet_weights(names, read, architecture[component])
    if component == "vae":
        return ldm.vae_weights(names, read, architecture[component])
    return towers(component, names, read)


# --------------------------------------------------------------------------------------------------------- training


def targets(presets: Mapping[str, tuple[str, str]], preset: str, towers: Iterable[str]) -> dict[str, str]:
    """Component -> regex, for the UNet and the text towers that are trained; "re:…" stands for all of them alike."""
    own, of_towers = (preset[3:],) * 2 if preset.startswith("re:") else presets[preset]
    return {"unet": own, **dict.fromkeys(towers, of_towers)}


UNET_BLOCK = re.compile(
    r"(down_blocks\.\d+|mid_block|up_blocks\.\d+)\.(resnets\.\d+|attentions\.\d+\.transformer_blocks\.\d+)"
)
TEXT_BLOCK = re.compile(r"(text_model\.)?encoder\.layers\.\d+")


def blocks(modules: Modules) -> dict[str, nn.Module]:
    order = {name: TEXT_BLOCK for name in sorted(modules) if name.startswith("text_encoder")}
    if "unet" in modules:
        order["unet"] = UNET_BLOCK
    return {
        f"{component}.{name}": block
        for component, pattern in order.items()
        for name, block in modules[component].named_modules()
        if pattern.fullmatch(name)
    }


def caption_tokens(tokenizers: dict[str, Any], captions: Sequence[str]) -> list[int]:
    return tokenizing.counts(tokenizers["text_encoder"], captions)


def example(architecture: Architecture, size: int, shape: plan.Shape) -> Batch:
    """What a batch has of a picture and of `draw`."""
    latents = autoencoder.example(architecture["vae"], size, shape)
    return {**latents, "timestep": torch.zeros(size, dtype=torch.long)}


def draw(item: Batch, generator: Generator, objective: plan.Objective) -> Batch:
    return diffusion.draw(item["latent_mean"], generator, SCHEDULER["num_train_timesteps"], objective)


def loss(
    unet: Any,
    hidden: Tensor,
    batch: Batch,
    base: plan.Base,
    objective: plan.Objective,
    added: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """The loss of each sample (N,), float32. `hidden` is the text (N, tokens, width); `added` what else the UNet is
    told, as diffusers' `added_cond_kwargs`."""
    scale = base.architecture["vae"]["scaling_factor"]
    latents = autoencoder.drawn(batch) * scale
    alpha = diffusion.alphas_cumprod(base.architecture["scheduler"], latents.device)[batch["timestep"]]
    given = diffusion.noisy(latents, batch["noise"], alpha).to(unet.dtype)
    said = unet(
        given,
        batch["timestep"],
        encoder_hidden_states=hidden.to(unet.dtype),
        added_cond_kwargs=added,
    ).sample
    return diffusion.loss(said, latents, batch, alpha, base.prediction_type, objective)


# --------------------------------------------------------------------------------------------------------- sampling


def solver(base: plan.Base) -> diffusers.DPMSolverMultistepScheduler:
    """DPM-Solver++ (Lu et al. 2022) over the base's own noise schedule.

    One that ends in pure noise is begun there, which "leading" steps never are (Lin et al. 2023, 3.3).
    """
    fixed = base.architecture["scheduler"]
    ends_in_noise = bool(fixed.get(plan.ZERO_SNR))
    return diffusers.DPMSolverMultistepScheduler(
        **{key: fixed[key] for key in ("beta_schedule", "beta_start", "beta_end", "num_train_timesteps")},
        prediction_type=base.prediction_type,
        rescale_betas_zero_snr=ends_in_noise,
        timestep_spacing="trailing" if ends_in_noise else "leading",
        steps_offset=1,
    )


def drawn(
    pipeline: Any, modules: Modules, base: plan.Base, wish: Wish, text: Mapping[str, Tensor]
) -> list[Image]:
    """The wish's pictures by one of diffusers' pipelines. `text`: the pipeline's names for what is encoded of the
    prompt and the negative prompt -> that, (1, …)."""
    latents = drawing.latents(pipeline, wish, text, guidance_scale=wish.guidance)
    pixels = autoencoder.decode(modules, latents / base.architecture["vae"]["scaling_factor"])
    return drawing.pictures(pipeline, pixels)


# ----------------------------------------------------------------------------------------------------------- naming


def clip_name(prefix: str, module: str) -> str:
    """A text tower's LoRA key prefix, always with the level that transformers >= 5.6 has no more: A1111 and ComfyUI
    drop keys without it in silence (facts/outputs.md rule 3)."""
    inner = module.removeprefix("text_model.")
    return f"{prefix}_text_model_{inner}".replace(".", "_")


# ------------------------------------------------------------------------------------------------------------- tiny

TINY_VAE: dict[str, Any] = {
    "block_out_channels": [32, 32, 32],
    "layers_per_block": 1,
    "sample_size": 64,
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
}


def write_folder(
    folder: Path,
    config: Architecture,
    build: Callable[[Architecture, str], Any],
    tokenizers: Mapping[str, Any],
    index: Mapping[str, Any],
) -> Path:
    """A diffusers folder of random weights in fp16. `index` is its model_index.json, the scheduler's line included."""
    tiny.write(folder, config, build, [name for name in config if name != "scheduler"])
    for name, tokenizer in tokenizers.items():
        tokenizer.save_pretrained(folder / name)
    (folder / "scheduler").mkdir(exist_ok=True)
    scheduler = {"_class_name": index["scheduler"][1], **config["scheduler"], "skip_prk_steps": True}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler, indent=2))
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return folder
