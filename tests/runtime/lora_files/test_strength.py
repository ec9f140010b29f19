"""How strong an adapter is beside its base, where the answer is known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from runtime.errors import InputError
from runtime.lora_files.strength import relative_norm

MODULES = [f"down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_{side}" for side in ("q", "k", "v")]


def adapter(path: Path, base: Path, shares: list[float]) -> Path:
    """A rank-1 LoRA in kohya's names that changes each module's weight by this share of its norm."""
    weights = load_file(base / "unet" / "diffusion_pytorch_model.safetensors")
    tensors = {}
    for module, share in zip(MODULES, shares, strict=True):
        weight = weights[f"{module}.weight"].float()
        up = torch.full((weight.shape[0], 1), 1 / weight.shape[0] ** 0.5) * share * weight.norm()
        down = torch.full((1, weight.shape[1]), 1 / weight.shape[1] ** 0.5)
        name = f"lora_unet_{module.replace('.', '_')}"
        tensors |= {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down}
        tensors[f"{name}.alpha"] = torch.tensor(1.0)
    save_file(tensors, path)
    return path


def test_it_is_the_median_over_modules_of_the_changes_share(tiny_base: Path, tmp_path: Path) -> None:
    file = adapter(tmp_path / "a.safetensors", tiny_base, [0.01, 0.5, 0.02])
    assert relative_norm(file, tiny_base) == pytest.approx(0.02, rel=1e-4)


def test_a_base_that_is_not_here_is_said(tiny_base: Path, tmp_path: Path) -> None:
    file = adapter(tmp_path / "a.safetensors", tiny_base, [0.01, 0.5, 0.02])
    with pytest.raises(InputError):
        relative_norm(file, tmp_path / "gone")
