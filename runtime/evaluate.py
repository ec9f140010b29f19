"""Losses on what is held out from training, with their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import attrs
import numpy as np
import torch

from runtime import average, processes

if TYPE_CHECKING:
    from runtime.families.protocol import Batch
    from runtime.step import Trainee

DRAWS = 1000
"""Bootstrap samples of an interval (Efron 1979)."""


@attrs.frozen(kw_only=True)
class HeldOut:
    """The mean loss over `weight` tokens (or pictures) of `samples`; `low` and `high` bound it to 95 %.

    The interval is a bootstrap over samples: tokens of one sample are not independent.
    """

    loss: float
    low: float
    high: float
    samples: int
    weight: int

    @property
    def perplexity(self) -> float:
        """e to the loss: of how many equally likely tokens each one was as surprising as one."""
        return math.exp(self.loss)


def held_out(of: Trainee, batches: Iterable[tuple[Batch, list[int]]]) -> HeldOut | None:
    """Measure what would be exported, without dropout; None where nothing is held out.

    Each batch comes with its samples' weights (`Feed.held_out`).
    """
    losses: list[float] = []
    weights: list[int] = []
    program = of.program
    before = {name: module.training for name, module in of.modules.items()}
    for module in of.modules.values():
        module.eval()
    try:
        with average.shown(of), torch.no_grad():
            for number, (batch, weight) in enumerate(batches):
                weights += weight
                if processes.is_mine(number):
                    found = of.family.loss(of.modules, batch, program.base, program.train.objective).tolist()
                losses += found if processes.is_mine(number) else [0.0] * len(weight)
    finally:
        for name, module in of.modules.items():
            module.train(before[name])
    if of.stream is not None:
        of.stream.rest()
    if not losses:
        return None
    shared = torch.tensor(losses, dtype=torch.float64)
    processes.add_up(shared)  # each loss is one process's: the sums are exact
    return interval(shared.tolist(), weights)


def interval(losses: list[float], weights: list[int]) -> HeldOut:
    """The mean of sums of losses, one a sample, over their weights."""
    sums, counts = np.array(losses), np.array(weights)
    chosen = np.random.default_rng(0).integers(0, len(sums), (DRAWS, len(sums)))
    means = sums[chosen].sum(1) / counts[chosen].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return HeldOut(
        loss=float(sums.sum() / counts.sum()),
        low=float(low),
        high=float(high),
        samples=len(sums),
        weight=int(counts.sum()),
    )
