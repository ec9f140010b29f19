"""Losses on what is held out from training, with their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
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

Rows = list[tuple[int, int]]
"""Of each row of a batch, its sample's number and its weight (`Feed.held_out`)."""


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
        """Of text, e to the loss: of how many equally likely tokens each one was as surprising as one."""
        return math.exp(self.loss)


@attrs.frozen(kw_only=True)
class Losses:
    """What was measured of each sample: the sum of its losses, and its weight, which those are a mean over."""

    sums: tuple[float, ...]
    weights: tuple[int, ...]

    def interval(self) -> HeldOut:
        """Their mean with its uncertainty."""
        return interval(self.sums, self.weights)


def difference(first: Losses, second: Losses) -> tuple[float, float]:
    """How much higher the first mean loss is than the second, and the standard error of that.

    Both are of the same samples with the same noise, so only what differs between the weights is left: the error is
    that of a ratio of sums over samples (Cochran 1977, "Sampling Techniques", equation 2.39); 0 for a single one.
    """
    gaps, weights = np.subtract(first.sums, second.sums), np.array(second.weights)
    mean = gaps.sum() / weights.sum()
    rest = gaps - mean * weights
    count = len(weights)
    error = np.sqrt(count / max(1, count - 1) * (rest**2).sum()) / weights.sum()
    return float(mean), float(error) if count > 1 else 0.0


def held_out(of: Trainee, batches: Iterable[tuple[Batch, Rows]]) -> Losses | None:
    """Measure what would be exported, without dropout; None where nothing is held out."""
    sums: dict[int, float] = {}
    weights: dict[int, int] = {}
    program = of.program
    before = {name: module.training for name, module in of.modules.items()}
    for module in of.modules.values():
        module.eval()
    try:
        with average.shown(of), torch.no_grad():
            number, batch = -1, None
            for number, (batch, rows) in enumerate(batches):
                losses = [0.0] * len(rows)
                if processes.is_mine(number):
                    losses = of.family.loss(of.modules, batch, program.base, program.train.objective).tolist()
                for (sample, weight), loss in zip(rows, losses, strict=True):
                    sums[sample] = sums.get(sample, 0.0) + loss
                    weights[sample] = weights.get(sample, 0) + weight
            if batch is not None and program.compute.sharded and processes.spare(number + 1):
                of.family.loss(of.modules, batch, program.base, program.train.objective)
    finally:
        for name, module in of.modules.items():
            module.train(before[name])
    if of.stream is not None:
        of.stream.rest()
    if not sums:
        return None
    shared = torch.tensor(list(sums.values()), dtype=torch.float64)
    processes.add_up(shared)  # each batch is one process's
    return Losses(sums=tuple(shared.tolist()), weights=tuple(weights.values()))


def interval(losses: Sequence[float], weights: Sequence[int]) -> HeldOut:
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
