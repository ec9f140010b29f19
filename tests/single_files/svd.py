"""Stable Video Diffusion in Stability's own names, as far as it takes to be known by them: that file is no base."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

NO_BASE = "the file in Stability's own names is not read: refused by name, with what to download instead"


def original(folder: Path) -> dict[str, Tensor]:
    ours = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    name = "temporal_transformer_blocks.0.attn1.to_q.weight"
    there = "model.diffusion_model.input_blocks.1.1.time_stack.0.attn1.to_q.weight"
    return {there: ours[f"down_blocks.0.attentions.0.{name}"]}
