"""Methods whose parts make up a change of the whole weight, which is made anew in the backward pass.

Autograd would keep the change itself and what it was made from, each of a weight's size, in every layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from runtime import plan
from runtime.adapters.adapted import Adapted, channel_dropout, sides, through


class WeightChange(Adapted):
    """Adds what the layer does with `change()` for its weight, (out, in) or (out, in, k, k)."""

    def __init__(
        self, base: nn.Module, name: str, adapter: plan.Adapter, shapes: Mapping[str, Sequence[int]]
    ) -> None:
        super().__init__(base, shapes)
        out, inner = sides(base)
        self.shape = (out, *inner)
        self.channel_dropout = channel_dropout(base, name, adapter, scaled=False)

    def change(self) -> Tensor:
        """What is added to the weight."""
        raise NotImplementedError

    def added(self, x: Tensor, out: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            # Nothing in it draws from a global generator, so there is no state to keep.
            return checkpoint(self._added, x, use_reentrant=False, preserve_rng_state=False)
        return self._added(x)

    def _added(self, x: Tensor) -> Tensor:
        return self.channel_dropout(through(self.base_layer, x, self.change().reshape(self.shape)))


# ------------------------------------------------------------------------------------------------------------ files


def files(adapter: plan.Adapter) -> tuple[str, ...]:
    """diffusers takes no such file (facts/outputs.md 1.4)."""
    return ("webui", "peft")


def in_peft(adapter: plan.Adapter) -> plan.Adapter:
    """In PEFT's file alpha is the rank: the strength is in the parts."""
    alphas = tuple(plan.AlphaOf(pattern=one.pattern, alpha=float(one.rank)) for one in adapter.ranks)
    return attrs.evolve(
        adapter, alpha=float(adapter.rank), alphas=alphas, rank_dropout=0.0, module_dropout=0.0
    )


def peft_config(kind: str, modules: list[str], adapter: plan.Adapter) -> dict[str, Any]:
    """Of PEFT's `kind`, "LOHA" or "LOKR"."""
    ranks = {module: plan.rank_of(adapter, module) for module in modules}
    others = {module: rank for module, rank in ranks.items() if rank != adapter.rank}
    return {
        "peft_type": kind,
        "r": adapter.rank,
        "alpha": adapter.rank,
        "rank_dropout": adapter.rank_dropout,
        "module_dropout": adapter.module_dropout,
        "use_effective_conv2d": False,
        "target_modules": sorted(modules),
        "init_weights": True,
        "rank_pattern": others,
        "alpha_pattern": others,
    }
