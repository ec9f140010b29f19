"""LoRA (Hu et al. 2021), put on by peft; its first values and its dropout are our own, keyed by name."""

from __future__ import annotations

import math
import re
from hashlib import blake2b
from typing import cast

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from runtime import plan
from runtime.adapters.dropout import SampleDropout

NAME = "default"
GAUSSIAN_STD = 0.02


def attach(module: nn.Module, pattern: str, adapter: plan.Adapter) -> list[str]:
    """Adapt in place what `pattern` matches; the base is frozen. Paths of the adapted modules, in order."""
    module.requires_grad_(False)
    names = [n for n, m in module.named_modules() if re.fullmatch(pattern, n) and isinstance(m, LINEAR)]
    if not names:
        return []
    config = LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,  # type: ignore[arg-type]  # peft takes any number
        lora_dropout=adapter.dropout,
        target_modules=names,
        use_rslora=adapter.rslora,
        init_lora_weights=False,
    )
    inject_adapter_in_model(config, module, adapter_name=NAME)
    for name, layer in layers(module).items():
        dtype = cast(Tensor, layer.get_base_layer().weight).dtype
        for part in (layer.lora_A[NAME], layer.lora_B[NAME]):
            part.to(dtype)
        if adapter.dropout:
            layer.lora_dropout[NAME] = SampleDropout(adapter.dropout, name)
    return names


LINEAR = (nn.Linear, nn.Conv2d)


def layers(module: nn.Module) -> dict[str, LoraLayer]:
    """The adapted modules by path."""
    return {name: m for name, m in module.named_modules() if isinstance(m, LoraLayer)}


def parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """`PATH.A` and `PATH.B` of every adapted module."""
    found: dict[str, nn.Parameter] = {}
    for name, layer in layers(module).items():
        found[f"{name}.A"], found[f"{name}.B"] = _pair(layer)
    return found


def initialise(module: nn.Module, component: str, adapter: plan.Adapter, seed: int) -> None:
    """A: Kaiming-uniform with a = √5 (as the paper's code) or Gaussian with std 0.02; B: zero."""
    for name, parameter in parameters(module).items():
        with torch.no_grad():
            if name.endswith(".B"):
                parameter.zero_()
                continue
            digest = blake2b(f"{seed}/{component}.{name}".encode(), digest_size=7).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
            parameter.copy_(_first(tuple(parameter.shape), adapter.init, generator))


def _first(shape: tuple[int, ...], init: str, generator: torch.Generator) -> Tensor:
    if init == "gaussian":
        return torch.randn(shape, generator=generator) * GAUSSIAN_STD
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    return (torch.rand(shape, generator=generator) * 2 - 1) * bound


def dropouts(module: nn.Module) -> list[SampleDropout]:
    """The adapted modules' dropouts."""
    return [m for m in module.modules() if isinstance(m, SampleDropout)]


def factors(module: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Each adapted path's (A, B) as they compute."""
    return {name: _pair(layer) for name, layer in layers(module).items()}


def _pair(layer: LoraLayer) -> tuple[nn.Parameter, nn.Parameter]:
    return cast(tuple[nn.Parameter, nn.Parameter], (layer.lora_A[NAME].weight, layer.lora_B[NAME].weight))


def weigh(module: nn.Module, weight: float) -> None:
    """Set how strongly the adapter acts: 1 as trained, 0 as the base."""
    for layer in layers(module).values():
        layer.set_scale(NAME, weight)
