"""Several data sets in one epoch, each by its weight: a pure function of (sizes, weights, seed, epoch).

- A set of n samples with weight w counts n × w samples, rounded, at least one: weight 1 is every sample once, 2 every
  sample twice, 0.5 half of them, 1.5 every sample once and half of them once more.
- The half that comes once more is drawn anew each epoch, without replacement.
- Then all are shuffled together by `order.epoch_steps`, as pictures of one bucket are.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np

from runtime.data import draws, order
from runtime.data.order import Numbers

CHOSEN = 0x6D6978
"""What a draw is for, beside those of `draws`: which samples come once more."""


@attrs.frozen(eq=False)
class Visits:
    """An epoch's samples in their order, two arrays of (samples,) int64: the set of each, its number in that set."""

    sets: Numbers
    samples: Numbers


def count(size: int, weight: float) -> int:
    """Samples an epoch of a set of `size` >= 1 samples with `weight` > 0."""
    return max(1, int(np.floor(size * weight + 0.5)))


def samples_per_epoch(sizes: Sequence[int], weights: Sequence[float]) -> int:
    """Samples an epoch of all sets together."""
    return sum(count(size, weight) for size, weight in zip(sizes, weights, strict=True))


def epoch(sizes: Sequence[int], weights: Sequence[float], seed: int, number: int) -> Visits:
    """The order of epoch `number`, counted from 0.

    Sizes are at least 1; weights finite and above 0; as many of one as of the other: ValueError else.
    """
    if not all(size >= 1 for size in sizes) or not all(0 < weight < np.inf for weight in weights):
        raise ValueError(
            f"sizes {list(sizes)} must be at least 1 and weights {list(weights)} finite and above 0"
        )
    taken = [
        _taken(size, count(size, weight), seed, number, at)
        for at, (size, weight) in enumerate(zip(sizes, weights, strict=True))
    ]
    samples = np.concatenate([np.empty(0, dtype=np.int64), *taken])
    sets = np.repeat(np.arange(len(taken), dtype=np.int64), [len(part) for part in taken])
    one_bucket = np.zeros(len(samples), dtype=np.int64)
    shuffled = np.concatenate(order.epoch_steps(one_bucket, seed, number, 1)) if len(samples) else one_bucket
    return Visits(sets[shuffled], samples[shuffled])


def _taken(size: int, wanted: int, seed: int, number: int, at: int) -> Numbers:
    """The samples of set `at` that epoch `number` visits: all, as often as they fit, and some once more."""
    numbers = np.arange(size, dtype=np.int64)
    luck = draws.mix(CHOSEN, seed, number, at, numbers.astype(np.uint64))
    chosen = np.lexsort((numbers, luck))[: wanted % size]
    return np.concatenate([np.tile(numbers, wanted // size), chosen])
