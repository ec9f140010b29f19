"""(IA)³ (Liu et al. 2022, arXiv:2205.05638): one vector a layer, which its output is multiplied by; the last layer of
a feed-forward block has its input multiplied.

The paper adapts keys, values and that last layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from peft.utils import TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING
from torch import Generator, Tensor, nn

from runtime import plan
from runtime.adapters import vectors
from runtime.adapters.adapted import LINEAR, Adapted, Parts, sides

TITLE = "(IA)³"
TAKES = LINEAR
WEBUI: dict[str, str] = {}
PEFT = {"l": "ia3_l"}
EXACT = frozenset("l")
SCALED = ""

LAST_OF_FEEDFORWARD = tuple(
    sorted(
        {name for names in TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING.values() for name in names}
    )
)
"""What PEFT knows the last layers of feed-forward blocks by, in any architecture."""


def _by_input(path: str) -> bool:
    return any(path == name or path.endswith(f".{name}") for name in LAST_OF_FEEDFORWARD)


class IA3Layer(Adapted):
    """Part: l (out, 1), or (1, in) where the input is multiplied; float32, as it stays near 1."""

    def __init__(self, base: nn.Module, name: str) -> None:
        out, (inner,) = sides(base)
        self.by_input = _by_input(name)
        super().__init__(base, {"l": (1, inner) if self.by_input else (out, 1)}, exact=True)

    def first(self, generator: Callable[[str], Generator]) -> None:
        self.parts["l"].fill_(1.0)

    def forward(self, x: Tensor) -> Tensor:
        times = torch.lerp(torch.ones_like(self.parts["l"]), self.parts["l"], self.acting).flatten()
        if self.by_input:
            scaled: Tensor = self.base_layer((x * times).to(x.dtype))
            return scaled
        out: Tensor = self.base_layer(x)
        return (out * times).to(out.dtype)


def layers(bases: Mapping[str, nn.Module], adapter: plan.Adapter) -> dict[str, Adapted]:
    return {name: IA3Layer(base, name) for name, base in bases.items()}


# ------------------------------------------------------------------------------------------------------------ files

files = vectors.files
strength = vectors.strength
read_strength = vectors.read_strength
network = vectors.network
for_peft = vectors.for_peft


def fault(parts: Parts, module: str, adapter: plan.Adapter) -> str:
    return ""


def in_peft(adapter: plan.Adapter) -> plan.Adapter:
    return adapter


def peft_config(modules: list[str], adapter: plan.Adapter) -> dict[str, Any]:
    return {
        "peft_type": "IA3",
        "target_modules": sorted(modules),
        "feedforward_modules": sorted(filter(_by_input, modules)),
        "fan_in_fan_out": False,
        "init_ia3_weights": True,
    }
