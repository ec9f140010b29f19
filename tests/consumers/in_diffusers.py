"""diffusers itself, on a random Stable Diffusion of narrow layers: what `load_lora_weights` changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor, nn

from runtime.families import sd1, sd2, sdxl
from tests.consumers.loaded import Changes

COMPONENTS = ("unet", "text_encoder", "text_encoder_2")


def pipeline(architecture: dict[str, Any]) -> Any:
    """A pipeline of random weights; the picture decoder and the tokenizers play no part and are left out."""
    is_xl, is_sd2 = "text_encoder_2" in architecture, architecture["unet"].get("use_linear_projection")
    of = sdxl if is_xl else sd2 if is_sd2 else sd1
    with torch.random.fork_rng():
        torch.manual_seed(0)
        built = {name: of.build(architecture, name) for name in COMPONENTS if name in architecture}
    scheduler = DDIMScheduler(steps_offset=1, clip_sample=False)
    absent = dict.fromkeys(("vae", "tokenizer"))
    if is_xl:
        return StableDiffusionXLPipeline(**built, **absent, tokenizer_2=None, scheduler=scheduler)
    absent |= dict.fromkeys(("safety_checker", "feature_extractor"))
    return StableDiffusionPipeline(**built, **absent, scheduler=scheduler, requires_safety_checker=False)


def load(path: Path, architecture: dict[str, Any], **how: Any) -> Changes:
    """The change of each module's weight by `load_lora_weights(path)` and fusing; modules unchanged are
    left out."""
    pipe = pipeline(architecture)
    before = _weights(pipe)
    pipe.load_lora_weights(str(path), **how)
    pipe.fuse_lora(components=[name for name in COMPONENTS if name in pipe.get_list_adapters()])
    after = _weights(pipe)
    assert before.keys() == after.keys()
    differences = {name: (after[name] - before[name]).flatten(1) for name in before}
    return {name: change for name, change in differences.items() if change.any()}


def _weights(pipe: Any) -> dict[tuple[str, str], Tensor]:
    return {
        (component, name.replace(".base_layer", "")): layer.weight.detach().clone()
        for component in COMPONENTS
        if hasattr(pipe, component)
        for name, layer in getattr(pipe, component).named_modules()
        if type(layer) in (nn.Linear, nn.Conv2d) and "lora_" not in name
    }
