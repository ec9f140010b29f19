"""The rules by which kohya's sd-scripts (48d368fa) name and load a LoRA of Stable Diffusion 1.x, 2.x and XL, written
anew.

Rules of networks/lora.py (create_modules, create_network_from_weights). Its transformers is older than
5.6, so its text encoder has the `text_model` level. SDXL's UNet it builds itself, by the original names. No line is
copied.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from runtime.families import family
from tests.consumers import compvis
from tests.consumers.loaded import Changes, Loaded, product, read

CLIP = {"CLIPAttention", "CLIPSdpaAttention", "CLIPMLP"}
ATTENTION = {"unet": {"Transformer2DModel"}, "text_encoder": CLIP}
CONVOLUTION = {"ResnetBlock2D", "Downsample2D", "Upsample2D"}
PREFIX = {"unet": "lora_unet", "text_encoder": "lora_te"}
OUTSIDE = {*compvis.XL.embeddings, "input_blocks.0.0", "out.2"}
"""Layers in no block of the kinds above."""


def names(architecture: dict[str, Any], convolutions: bool = False) -> dict[str, tuple[str, str]]:
    """The name of every module that kohya's trainer would adapt -> (component, module)."""
    if "text_encoder_2" not in architecture:
        return {
            name: place
            for component, prefix in PREFIX.items()
            for name, place in _named(architecture, component, prefix, "sd1", convolutions).items()
        }
    unet = {
        f"lora_unet_{original.replace('.', '_')}": ("unet", module)
        for original, module in compvis.in_diffusers(architecture).items()
        if original not in OUTSIDE
        and (convolutions or ".transformer_blocks." in original or ".proj_" in original)
    }
    towers = (("text_encoder", "lora_te1"), ("text_encoder_2", "lora_te2"))
    return unet | {
        name: place
        for component, prefix in towers
        for name, place in _named(architecture, component, prefix, "sdxl", False).items()
    }


def _named(
    architecture: dict[str, Any], component: str, prefix: str, of: str, convolutions: bool
) -> dict[str, tuple[str, str]]:
    found: dict[str, tuple[str, str]] = {}
    with torch.device("meta"):
        root = family(of).build(architecture, component)
    wanted = ATTENTION.get(component, CLIP) | (CONVOLUTION if convolutions and component == "unet" else set())
    for outer, block in root.named_modules():
        if type(block).__name__ not in wanted:
            continue
        for inner, layer in block.named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                module = f"{outer}.{inner}"
                level = "text_model." if component != "unet" and "text_model." not in module else ""
                found[f"{prefix}_{level}{module}".replace(".", "_")] = (component, module)
    return found


def load(path: Path, architecture: dict[str, Any]) -> Loaded:
    """What kohya's trainer takes up again. What it has no module for is passed over."""
    tensors, known = read(path), names(architecture, convolutions=True)
    ranks = {key.partition(".")[0]: len(value) for key, value in tensors.items() if "lora_down" in key}
    changes: Changes = {}
    for name, rank in ranks.items():
        if name in known:
            alpha = tensors[f"{name}.alpha"].item() if f"{name}.alpha" in tensors else 0
            up, down = tensors[f"{name}.lora_up.weight"], tensors[f"{name}.lora_down.weight"]
            changes[known[name]] = product(up, down, (alpha or rank) / rank)
    return Loaded(changes, [key for key in tensors if key.partition(".")[0] not in known])
