"""LoHa: a change of weight that is the elementwise product of two of low rank (FedPara, Hyeon-Woo et al. 2022,
arXiv:2108.06098; LyCORIS, Yeh et al. 2024, arXiv:2309.14859). Of rank² at twice the parameters of LoRA's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Generator, Tensor, nn

from runtime import plan
from runtime.adapters import weight_change
from runtime.adapters.adapted import Adapted, Parts, sides
from runtime.adapters.weight_change import WeightChange

TITLE = "LoHa"
TAKES = (nn.Linear, nn.Conv2d)
WEBUI = {part: f"hada_{part}" for part in ("w1_a", "w1_b", "w2_a", "w2_b")}
PEFT = WEBUI
EXACT: frozenset[str] = frozenset()
SCALED = "w1_a"

STD_OF_FIRST = {"w1_a": 0.1, "w1_b": 1.0, "w2_b": 1.0}
"""LyCORIS 4.1.3, modules/loha.py; w2_a begins at zero."""


class LoHaLayer(WeightChange):
    """Parts: w1_a, w2_a (out, rank); w1_b, w2_b (rank, in · k · k)."""

    def __init__(self, base: nn.Module, name: str, adapter: plan.Adapter) -> None:
        out, inner = sides(base)
        rank = plan.rank_of(adapter, name)
        sizes = {"a": (out, rank), "b": (rank, math.prod(inner))}
        shapes = {f"w{half}_{end}": size for half in "12" for end, size in sizes.items()}
        super().__init__(base, name, adapter, shapes)
        self.strength = plan.alpha_of(adapter, name) / rank

    def first(self, generator: Callable[[str], Generator]) -> None:
        self.parts["w2_a"].zero_()
        for part, std in STD_OF_FIRST.items():
            drawn = Tensor.normal_(
                self.parts[part].detach().float().cpu(), std=std, generator=generator(part)
            )
            self.parts[part].copy_(drawn)

    def change(self) -> Tensor:
        parts = self.parts
        return (parts["w1_a"] @ parts["w1_b"]) * (parts["w2_a"] @ parts["w2_b"]) * self.strength


def layers(bases: Mapping[str, nn.Module], adapter: plan.Adapter) -> dict[str, Adapted]:
    return {name: LoHaLayer(base, name, adapter) for name, base in bases.items()}


# ------------------------------------------------------------------------------------------------------------ files

files = weight_change.files
in_peft = weight_change.in_peft


def strength(parts: Parts, module: str, adapter: plan.Adapter) -> float:
    return plan.alpha_of(adapter, module) / plan.rank_of(adapter, module)


def read_strength(parts: Parts, alpha: float) -> float:
    return alpha / parts["w1_b"].shape[0]


def fault(parts: Parts, module: str, adapter: plan.Adapter) -> str:
    rank = plan.rank_of(adapter, module)
    found = {parts[part].shape[1 if part.endswith("a") else 0] for part in WEBUI}
    return "" if found == {rank} else f"has matrices of ranks {sorted(found)}, not of rank {rank}"


def network(adapter: plan.Adapter) -> tuple[str, int, dict[str, Any]]:
    return "lycoris.kohya", adapter.rank, {"algo": "loha"}


def for_peft(parts: Parts, module: str, adapter: plan.Adapter) -> Parts:
    return {**parts, SCALED: parts[SCALED] * strength(parts, module, adapter)}


def peft_config(modules: list[str], adapter: plan.Adapter) -> dict[str, Any]:
    return weight_change.peft_config("LOHA", modules, adapter)
