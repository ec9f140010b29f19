"""A diffusers folder of SD 2.x written as one file: SD 1's layout with OpenCLIP's tower, one layer more than is run."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.single_files import open_clip, sd1

STEM = "cond_stage_model.model."


def original(folder: Path) -> dict[str, Tensor]:
    """The tensors of a diffusers folder under their original names."""
    tower = open_clip.original(load_file(folder / "text_encoder" / "model.safetensors"), STEM)
    layers = f"{STEM}transformer.resblocks."
    last = max(int(name.removeprefix(layers).split(".")[0]) for name in tower if name.startswith(layers))
    unused = {
        name.replace(f"{layers}{last}.", f"{layers}{last + 1}."): torch.zeros_like(tensor)
        for name, tensor in tower.items()
        if name.startswith(f"{layers}{last}.")
    }
    projection = {f"{STEM}text_projection": torch.zeros(64, 64)}
    return sd1.denoiser_and_vae(folder) | tower | unused | projection
