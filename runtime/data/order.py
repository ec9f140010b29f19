"""Which samples make up which optimizer step: a pure function of (pictures, seed, effective batch, step).

- A sample is one repeat of one item; an epoch visits each exactly once.
- A step's samples share a bucket where the bucket has enough left; what is left of all buckets is joined
  into mixed steps, so nothing is dropped, and only an epoch's last step may be short.
- Micro-batches are cut from a step afterwards: they never change what a step, or a sample, sees.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs
import numpy as np
from numpy.typing import NDArray

from runtime import plan
from runtime.data import draws

Numbers = NDArray[np.int64]


@attrs.frozen(kw_only=True)
class Sample:
    """One visit of an item. `flip`, `drop_caption`, the caption's wording (`variant`) and the picture's `view` are
    drawn from `key`."""

    item: int
    bucket: tuple[int, int]
    key: int
    flip: bool
    drop_caption: bool
    variant: int = 0
    view: int = 0


def steps_per_epoch(data: plan.Images, effective_batch: int) -> int:
    """Optimizer steps that visit every sample once."""
    return math.ceil(data.expected / effective_batch)


class Order:
    """The samples of every step. Works in O(samples) once an epoch and O(effective batch) a step.

    The epoch last asked for is remembered for speed; it is no state: steps may be asked for in any order.
    """

    def __init__(self, data: plan.Images, seed: int, effective_batch: int) -> None:
        self.data = data
        self.seed = seed
        self.effective_batch = effective_batch
        repeats = [item.repeats for item in data.items]
        self._item_of = np.repeat(np.arange(len(repeats)), repeats)
        self.buckets = sorted({item.bucket for item in data.items})
        places = {bucket: place for place, bucket in enumerate(self.buckets)}
        self._bucket_of = np.array([places[item.bucket] for item in data.items], dtype=np.int64)[
            self._item_of
        ]
        self.steps_per_epoch = math.ceil(len(self._item_of) / effective_batch)
        self._epoch = -1
        self._steps: list[Numbers] = []

    def step(self, number: int) -> tuple[Sample, ...]:
        """The samples of optimizer step `number`, counted from 0 over the whole run."""
        epoch, inside = divmod(number, self.steps_per_epoch)
        if epoch != self._epoch:
            self._steps = epoch_steps(self._bucket_of, self.seed, epoch, self.effective_batch)
            self._epoch = epoch
        samples = self._steps[inside]
        keys = draws.sample_keys(self.seed, number, samples.astype(np.uint64))
        flips = self.data.flip & (draws.uniform(keys, draws.FLIP) < 0.5)
        drops = draws.uniform(keys, draws.CAPTION) < self.data.caption_dropout
        variants = (draws.uniform(keys, draws.VARIANT) * self.data.caption_variants).astype(np.int64)
        views = (draws.uniform(keys, draws.VIEW) * plan.picture_variants(self.data)).astype(np.int64)
        return tuple(
            Sample(
                item=int(self._item_of[sample]),
                bucket=self.buckets[self._bucket_of[sample]],
                key=int(key),
                flip=bool(flip),
                drop_caption=bool(drop),
                variant=int(variant),
                view=int(view),
            )
            for sample, key, flip, drop, variant, view in zip(
                samples, keys, flips, drops, variants, views, strict=True
            )
        )


def epoch_steps(bucket_of: Numbers, seed: int, epoch: int, effective_batch: int) -> list[Numbers]:
    """The epoch's steps, each an array of sample numbers; `bucket_of` gives each sample's bucket."""
    numbers = np.arange(len(bucket_of), dtype=np.int64)
    luck = draws.mix(draws.ORDER, seed, epoch, numbers.astype(np.uint64))
    bucket_luck = draws.mix(draws.BUCKETS, seed, epoch, bucket_of.astype(np.uint64))
    shuffled = np.lexsort((numbers, luck, bucket_of, bucket_luck))
    edges = np.flatnonzero(np.diff(bucket_of[shuffled])) + 1
    full: list[Numbers] = []
    tails: list[Numbers] = []
    for group in np.split(shuffled, edges):
        whole = len(group) - len(group) % effective_batch
        full += [group[at : at + effective_batch] for at in range(0, whole, effective_batch)]
        tails.append(group[whole:])
    tail = np.concatenate(tails)
    mixed = [tail[at : at + effective_batch] for at in range(0, len(tail), effective_batch)]
    last = [mixed.pop()] if mixed and len(mixed[-1]) < effective_batch else []
    full += mixed
    step_luck = draws.mix(draws.STEPS, seed, epoch, np.arange(len(full), dtype=np.uint64))
    return [full[at] for at in np.argsort(step_luck, kind="stable")] + last


def micro_batches(samples: Sequence[Sample], micro_batch: int) -> list[tuple[Sample, ...]]:
    """Cut a step in groups of one bucket each, of `micro_batch` samples at most, in a fixed order."""
    groups: dict[tuple[int, int], list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.bucket, []).append(sample)
    return [
        tuple(group[at : at + micro_batch])
        for group in groups.values()
        for at in range(0, len(group), micro_batch)
    ]
