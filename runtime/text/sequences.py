"""Which samples make up which sequence of which optimizer step: a pure function of (lengths, seed, step).

- An epoch visits its samples in the mixture's order. Packed, they fill sequences of the plan's length; else samples of
  like length make up a step, so that little is padded.
- How many steps an epoch has follows from its own packing; an epoch's last step may be short.
"""

from __future__ import annotations

from collections.abc import Sequence as Many

import attrs
import numpy as np

from runtime.data import draws, mixture
from runtime.text import packing
from runtime.text.corpus import Corpus


@attrs.frozen(kw_only=True)
class Sequence:
    """One sequence: the samples in it, by their numbers over all files, and the key of its randomness."""

    samples: tuple[int, ...]
    key: int


class Order:
    """The sequences of every step. The epochs before are counted once; that is no state: any step may be asked for.

    `sizes` and `weights` are each file's samples and weight, `lengths` each sample's tokens, file after file.
    """

    def __init__(
        self,
        sizes: Many[int],
        weights: Many[float],
        lengths: Many[int],
        length: int,
        packed: bool,
        seed: int,
        effective_batch: int,
    ) -> None:
        self.sizes, self.weights, self.lengths, self.length = (
            list(sizes),
            list(weights),
            list(lengths),
            length,
        )
        self.packed, self.seed, self.effective_batch = packed, seed, effective_batch
        self._offsets = np.cumsum([0, *self.sizes[:-1]])
        self._begins = [0]  # the first step of each epoch
        self._epoch, self._steps = -1, list[list[tuple[int, ...]]]()

    def step(self, number: int) -> tuple[Sequence, ...]:
        """The sequences of optimizer step `number`, counted from 0 over the whole run."""
        while self._begins[-1] <= number:
            steps = self._of(len(self._begins) - 1)
            self._begins.append(self._begins[-1] + len(steps))
        epoch = int(np.searchsorted(self._begins, number, side="right")) - 1
        rows = self._of(epoch)[number - self._begins[epoch]]
        keys = draws.sample_keys(self.seed, number, np.arange(len(rows), dtype=np.uint64))
        return tuple(Sequence(samples=row, key=int(key)) for row, key in zip(rows, keys, strict=True))

    def _of(self, epoch: int) -> list[list[tuple[int, ...]]]:
        """The steps of an epoch, each a list of sequences."""
        if epoch != self._epoch:
            visits = mixture.epoch(self.sizes, self.weights, self.seed, epoch)
            order = (self._offsets[visits.sets] + visits.samples).tolist()
            self._steps = self._grouped(order)
            self._epoch = epoch
        return self._steps

    def _grouped(self, order: list[int]) -> list[list[tuple[int, ...]]]:
        size = self.effective_batch
        if not self.packed:
            return [[(sample,) for sample in group] for group in packing.group(self.lengths, order, size)]
        rows = packing.pack(self.lengths, order, self.length)
        return [rows[at : at + size] for at in range(0, len(rows), size)]


def order_of(
    corpora: Many[Corpus],
    weights: Many[float],
    length: int,
    packed: bool,
    seed: int,
    effective_batch: int,
) -> Order:
    """The order of the sequences that these files' training samples make."""
    return Order(
        sizes=[len(made.train) for made in corpora],
        weights=weights,
        lengths=[int(n) for made in corpora for n in made.train.lengths],
        length=length,
        packed=packed,
        seed=seed,
        effective_batch=effective_batch,
    )


def per_epoch(order: Order) -> int:
    """Sequences of the first epoch."""
    return sum(len(step) for step in order._of(0))
