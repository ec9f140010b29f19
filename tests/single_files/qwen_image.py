"""Qwen-Image's transformer as ComfyUI's users download it: under diffusers' names, and nothing beside it."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

NO_BASE = "people download the transformer alone: refused by name, with what to download instead"


def original(folder: Path) -> dict[str, Tensor]:
    ours = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    return {f"model.diffusion_model.{name}": tensor for name, tensor in ours.items()}
