"""A training run's state on disk as safetensors, so that it can be stopped at any second and go on."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save

from runtime.safeio import atomic


def _adam_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"adam.{i}.{key}": torch.as_tensor(v) for i, slot in state.items() for key, v in slot.items()}


def save_state(
    path: Path,
    step: int,
    seconds: float,
    modules: dict[str, torch.nn.Module],
    optimizer: torch.optim.Optimizer,
    ema: dict[str, torch.Tensor],
) -> None:
    """Write weights, optimizer, EMA, step and training seconds spent; the old file stays until the new is whole."""
    tensors = {f"{name}.{key}": v for name, m in modules.items() for key, v in m.state_dict().items()}
    tensors |= {f"ema.{key}": value for key, value in ema.items()} | _adam_tensors(optimizer)
    tensors = {key: value.detach().contiguous().clone() for key, value in tensors.items()}
    atomic.write_bytes(path, save(tensors, metadata={"step": str(step), "seconds": str(seconds)}))


def load_state(
    path: Path,
    modules: dict[str, torch.nn.Module],
    optimizer: torch.optim.Optimizer,
    ema: dict[str, torch.Tensor],
) -> tuple[int, float]:
    """Put a saved state into modules, optimizer and EMA; the step and seconds it was saved at, or 0, 0.0."""
    if not path.exists():
        return 0, 0.0
    with safe_open(path, "pt") as saved:
        step, seconds = int(saved.metadata()["step"]), float(saved.metadata()["seconds"])
        tensors = {key: saved.get_tensor(key) for key in saved.keys()}  # noqa: SIM118 (not a dict)
    for name, module in modules.items():
        module.load_state_dict(_under(tensors, f"{name}."))
    for key, value in _under(tensors, "ema.").items():
        ema[key].copy_(value)
    slots: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in _under(tensors, "adam.").items():
        index, field = key.split(".", 1)
        slots.setdefault(int(index), {})[field] = value
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
    return step, seconds


def _under(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
