"""VeRA (Kopiczko et al. 2024, arXiv:2310.11454): two random projections that all layers share, frozen, and two
vectors of each layer's own: b ⊙ B (d ⊙ A x).

The projections are drawn as PEFT draws them, from its default key, so that its folder need not hold them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from runtime import plan
from runtime.adapters import vectors
from runtime.adapters.adapted import LINEAR, Adapted, Parts, sides, weight_of
from runtime.adapters.dropout import SampleDropout

TITLE = "VeRA"
TAKES = LINEAR
WEBUI: dict[str, str] = {}
PEFT = {"b": "vera_lambda_b", "d": "vera_lambda_d"}
EXACT = frozenset("bd")
SCALED = ""

KEY = 0
"""PEFT's `projection_prng_key` where nothing else is said."""

FIRST_D = 0.1
"""What d begins at (PEFT's `d_initial`; 0.1 in the paper); b begins at zero."""


class Projections(nn.Module):
    """A (rank, the longest in) and B (the longest out, rank): a layer takes what it needs of them."""

    A: Tensor
    B: Tensor

    def __init__(self, bases: Mapping[str, nn.Module], rank: int) -> None:
        super().__init__()
        outs, inners = zip(*(sides(base) for base in bases.values()), strict=True)
        like = weight_of(next(iter(bases.values())))
        generator = torch.Generator().manual_seed(KEY)
        for name, shape in (("A", (rank, max(inner for (inner,) in inners))), ("B", (max(outs), rank))):
            if like.device.type == "meta":
                drawn = torch.empty(shape, dtype=like.dtype, device="meta")
            else:
                drawn = nn.init.kaiming_uniform_(torch.empty(shape), generator=generator).to(like)
            self.register_buffer(name, drawn, persistent=False)


class VeRALayer(Adapted):
    """Parts: b (out,), d (rank,)."""

    def __init__(self, base: nn.Module, name: str, adapter: plan.Adapter, shared: Projections) -> None:
        self.out, (self.inner,) = sides(base)
        super().__init__(base, {"b": (self.out,), "d": (adapter.rank,)})
        self.shared = shared
        self.dropout = SampleDropout(adapter.dropout, name)

    def first(self, generator: Callable[[str], Generator]) -> None:
        self.parts["b"].zero_()
        self.parts["d"].fill_(FIRST_D)

    def added(self, x: Tensor, out: Tensor) -> Tensor:
        inner = self.parts["d"] * F.linear(self.dropout(x), self.shared.A[:, : self.inner])
        return self.parts["b"] * F.linear(inner, self.shared.B[: self.out])


def layers(bases: Mapping[str, nn.Module], adapter: plan.Adapter) -> dict[str, Adapted]:
    if not bases:
        return {}
    shared = Projections(bases, adapter.rank)
    return {name: VeRALayer(base, name, adapter, shared) for name, base in bases.items()}


# ------------------------------------------------------------------------------------------------------------ files

files = vectors.files
strength = vectors.strength
read_strength = vectors.read_strength
network = vectors.network
for_peft = vectors.for_peft


def fault(parts: Parts, module: str, adapter: plan.Adapter) -> str:
    length = len(parts["d"])
    return "" if length == adapter.rank else f"has d of {length}, not of rank {adapter.rank}"


def in_peft(adapter: plan.Adapter) -> plan.Adapter:
    return attrs.evolve(adapter, dropout=0.0)


def peft_config(modules: list[str], adapter: plan.Adapter) -> dict[str, Any]:
    return {
        "peft_type": "VERA",
        "r": adapter.rank,
        "projection_prng_key": KEY,
        "save_projection": False,
        "vera_dropout": adapter.dropout,
        "d_initial": FIRST_D,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_weights": True,
        "target_modules": sorted(modules),
    }
