"""How strong an adapter is beside its base, where the answer is known."""

from __future__ import annotations

import json
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


def test_a_language_models_folder_is_measured_beside_its_base(tiny_lm: Path, tmp_path: Path) -> None:
    module = "model.layers.0.self_attn.q_proj"
    weight = load_file(tiny_lm / "model.safetensors")[f"{module}.weight"].float()
    up = torch.full((weight.shape[0], 1), 1 / weight.shape[0] ** 0.5) * 0.1 * weight.norm()
    down = torch.full((1, weight.shape[1]), 1 / weight.shape[1] ** 0.5)
    name = f"base_model.model.{module}"
    tensors = {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert relative_norm(tmp_path, tiny_lm) == pytest.approx(0.1, rel=1e-4)


def test_a_base_that_is_not_here_is_said(tiny_base: Path, tmp_path: Path) -> None:
    file = adapter(tmp_path / "a.safetensors", tiny_base, [0.01, 0.5, 0.02])
    with pytest.raises(InputError):
        relative_norm(file, tmp_path / "gone")
