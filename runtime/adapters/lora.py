"""LoRA (Hu et al. 2021) and DoRA, put on by peft; first values, dropout and magnitudes are our own."""

from __future__ import annotations

import math
import re
from hashlib import blake2b
from typing import cast

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from runtime import plan
from runtime.adapters.dropout import SampleDropout
from runtime.adapters.magnitude import Magnitude

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
        use_dora=adapter.dora,
        init_lora_weights=False,
    )
    inject_adapter_in_model(config, module, adapter_name=NAME)
    for name, layer in layers(module).items():
        dtype = cast(Tensor, layer.get_base_layer().weight).dtype
        for part in (layer.lora_A[NAME], layer.lora_B[NAME]):
            part.to(dtype)
        if adapter.dora:
            b = cast(Tensor, layer.lora_B[NAME].weight)
            layer.lora_magnitude_vector[NAME] = Magnitude(b.shape[0], b.device)
        if adapter.dropout:
            layer.lora_dropout[NAME] = SampleDropout(adapter.dropout, name)
    return names


LINEAR = (nn.Linear, nn.Conv2d, Conv1D)
"""What is adapted; Conv1D is GPT-2's linear layer, its weight the other way round."""


def layers(module: nn.Module) -> dict[str, LoraLayer]:
    """The adapted modules by path."""
    return {name: m for name, m in module.named_modules() if isinstance(m, LoraLayer)}


def parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """`PATH.A` and `PATH.B` of every adapted module, with DoRA `PATH.M`, its magnitudes."""
    return {
        f"{name}.{part}": parameter
        for name, layer in layers(module).items()
        for part, parameter in zip("ABM", _parts(layer), strict=False)
    }


def initialise(module: nn.Module, component: str, adapter: plan.Adapter, seed: int) -> None:
    """A: Kaiming-uniform with a = √5 (as the paper's code) or Gaussian with std 0.02; B: zero; M: the base's."""
    for name, layer in layers(module).items():
        a, b, *magnitudes = _parts(layer)
        digest = blake2b(f"{seed}/{component}.{name}.A".encode(), digest_size=7).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
        with torch.no_grad():
            a.copy_(_first(tuple(a.shape), adapter.init, generator))
            b.zero_()
        if magnitudes:
            cast(Magnitude, layer.lora_magnitude_vector[NAME]).begin(layer.get_base_layer())


def _first(shape: tuple[int, ...], init: str, generator: torch.Generator) -> Tensor:
    if init == "gaussian":
        return torch.randn(shape, generator=generator) * GAUSSIAN_STD
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    return (torch.rand(shape, generator=generator) * 2 - 1) * bound


def dropouts(module: nn.Module) -> list[SampleDropout]:
    """The adapted modules' dropouts."""
    return [m for m in module.modules() if isinstance(m, SampleDropout)]


def factors(module: nn.Module) -> dict[str, tuple[Tensor, ...]]:
    """Each adapted path's (A, B), with DoRA (A, B, M), as they compute."""
    return {name: _parts(layer) for name, layer in layers(module).items()}


def _parts(layer: LoraLayer) -> tuple[nn.Parameter, ...]:
    held = (layer.lora_A, layer.lora_B, layer.lora_magnitude_vector)
    return tuple(cast(nn.Parameter, by_name[NAME].weight) for by_name in held if NAME in by_name)


def weigh(module: nn.Module, weight: float) -> None:
    """Set how strongly the adapter acts: 1 as trained, 0 as the base."""
    for layer in layers(module).values():
        layer.set_scale(NAME, weight)
        if layer.disable_adapters == bool(weight):  # without B·A, DoRA's magnitudes would act still
            layer.enable_adapters(bool(weight))
