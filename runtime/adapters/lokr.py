"""LoKr: a change of weight that is a Kronecker product (KronA, Edalati et al. 2022, arXiv:2212.10650; LyCORIS, Yeh et
al. 2024, arXiv:2309.14859): w1 ⊗ w2, w2 whole or a product of low rank.

No Tucker core: ComfyUI drops it and Forge fails on it (facts/outputs.md rule 13).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from peft.tuners.lokr.layer import factorization
from torch import Generator, Tensor, nn

from runtime import plan
from runtime.adapters import weight_change
from runtime.adapters.adapted import Adapted, Parts, kaiming, sides
from runtime.adapters.weight_change import WeightChange

TITLE = "LoKr"
TAKES = (nn.Linear, nn.Conv2d)
WEBUI = {part: f"lokr_{part}" for part in ("w1", "w2", "w2_a", "w2_b")}
PEFT = WEBUI
EXACT: frozenset[str] = frozenset()
SCALED = "w1"


class LoKrLayer(WeightChange):
    """Parts: w1 (out_1, in_1); w2 (out_2, in_2[, k, k]), or where rank is below half of its longer side w2_a
    (out_2, rank) and w2_b (rank, in_2 · k · k). out_1 · out_2 is out, in_1 · in_2 is in."""

    def __init__(self, base: nn.Module, name: str, adapter: plan.Adapter) -> None:
        out, (inner, *kernel) = sides(base)
        (out_1, out_2), (in_1, in_2) = (factorization(side, adapter.factor) for side in (out, inner))
        rank = plan.rank_of(adapter, name)
        shapes: dict[str, tuple[int, ...]] = {"w1": (out_1, in_1)}
        if rank < max(out_2, in_2) / 2:
            shapes |= {"w2_a": (out_2, rank), "w2_b": (rank, in_2 * math.prod(kernel))}
        else:
            shapes |= {"w2": (out_2, in_2, *kernel)}
        super().__init__(base, name, adapter, shapes)
        self.second = (out_2, in_2, *kernel)
        self.strength = plan.alpha_of(adapter, name) / rank if "w2_a" in shapes else 1.0

    def first(self, generator: Callable[[str], Generator]) -> None:
        """As LyCORIS 4.1.3: the second factor begins at zero, all else Kaiming-uniform with a = √5."""
        for name, part in self.parts.items():
            if name in ("w2", "w2_b"):
                part.zero_()
            else:
                part.copy_(kaiming(part.shape, generator(name)))

    def change(self) -> Tensor:
        parts = self.parts
        w2 = parts["w2"] if "w2" in parts else (parts["w2_a"] @ parts["w2_b"]).view(self.second)
        w1 = parts["w1"].view(*parts["w1"].shape, *[1] * (w2.ndim - 2))
        return torch.kron(w1, w2) * self.strength


def layers(bases: Mapping[str, nn.Module], adapter: plan.Adapter) -> dict[str, Adapted]:
    return {name: LoKrLayer(base, name, adapter) for name, base in bases.items()}


# ------------------------------------------------------------------------------------------------------------ files

files = weight_change.files
in_peft = weight_change.in_peft


def strength(parts: Parts, module: str, adapter: plan.Adapter) -> float:
    """alpha / rank where w2 is a product, else 1, as LyCORIS and all who read its files have it."""
    return plan.alpha_of(adapter, module) / plan.rank_of(adapter, module) if "w2_a" in parts else 1.0


def read_strength(parts: Parts, alpha: float) -> float:
    return alpha / parts["w2_b"].shape[0] if "w2_b" in parts else 1.0


def fault(parts: Parts, module: str, adapter: plan.Adapter) -> str:
    if "w1" not in parts or ("w2" in parts) == ("w2_a" in parts and "w2_b" in parts):
        return f"has {', '.join(sorted(parts))}, which make no Kronecker product"
    rank = plan.rank_of(adapter, module)
    if "w2_b" in parts and parts["w2_b"].shape[0] != rank:
        return f"has w2_b {tuple(parts['w2_b'].shape)}, not of rank {rank}"
    return ""


def network(adapter: plan.Adapter) -> tuple[str, int, dict[str, Any]]:
    return "lycoris.kohya", adapter.rank, {"algo": "lokr", "factor": adapter.factor}


def for_peft(parts: Parts, module: str, adapter: plan.Adapter) -> Parts:
    return {**parts, SCALED: parts[SCALED] * strength(parts, module, adapter)}


def peft_config(modules: list[str], adapter: plan.Adapter) -> dict[str, Any]:
    config = weight_change.peft_config("LOKR", modules, adapter)
    return {**config, "decompose_both": False, "decompose_factor": adapter.factor}
