"""Which samples make up which sequence of which optimizer step: a pure function of (lengths, seed, step).

- An epoch visits its samples in the mixture's order. Packed, they fill sequences of the plan's length; else samples of
  like length make up a step, so that little is padded.
- How many steps an epoch has follows from its own packing; an epoch's last step may be short.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Many

import attrs
import numpy as np

from runtime.data import draws, mixture
from runtime.data.order import Numbers
from runtime.text import packing
from runtime.text.corpus import Corpus


@attrs.frozen(kw_only=True)
class Sequence:
    """One sequence: the samples in it, by their numbers over all files, and the key of its randomness."""

    samples: tuple[int, ...]
    key: int


@attrs.frozen(eq=False)
class Epoch:
    """Sequences end to end: sequence i is samples[ends[i - 1]:ends[i]]. Sixteen bytes a sample at most."""

    samples: array[int]
    ends: array[int]

    @staticmethod
    def of(sequences: Iterable[tuple[int, ...]]) -> Epoch:
        samples, ends = array("q"), array("q")
        for sequence in sequences:
            samples.extend(sequence)
            ends.append(len(samples))
        return Epoch(samples, ends)

    def __len__(self) -> int:
        return len(self.ends)

    def sequences(self, first: int, end: int) -> list[tuple[int, ...]]:
        """Those of these numbers, as far as there are any."""
        begin = self.ends[first - 1] if first else 0
        found = []
        for stop in self.ends[first:end]:
            found.append(tuple(self.samples[begin:stop]))
            begin = stop
        return found


class Order:
    """The sequences of every step. The epochs before are counted once; that is no state: any step may be asked for.

    `sizes` and `weights` are each file's samples and weight, `lengths` each sample's tokens, file after file.
    """

    def __init__(
        self,
        sizes: Many[int],
        weights: Many[float],
        lengths: Many[int] | Numbers,
        length: int,
        packed: bool,
        seed: int,
        effective_batch: int,
    ) -> None:
        self.sizes, self.weights, self.length = list(sizes), list(weights), length
        self.lengths = _array(lengths)
        self.packed, self.seed, self.effective_batch = packed, seed, effective_batch
        self._offsets = np.cumsum([0, *self.sizes[:-1]])
        self._begins = [0]  # the first step of each epoch
        self._epoch, self._of_epoch = -1, Epoch.of(())

    def step(self, number: int) -> tuple[Sequence, ...]:
        """The sequences of optimizer step `number`, counted from 0 over the whole run."""
        while self._begins[-1] <= number:
            sequences = len(self._of(len(self._begins) - 1))
            self._begins.append(self._begins[-1] + math.ceil(sequences / self.effective_batch))
        epoch = int(np.searchsorted(self._begins, number, side="right")) - 1
        first = (number - self._begins[epoch]) * self.effective_batch
        rows = self._of(epoch).sequences(first, first + self.effective_batch)
        keys = draws.sample_keys(self.seed, number, np.arange(len(rows), dtype=np.uint64))
        return tuple(Sequence(samples=row, key=int(key)) for row, key in zip(rows, keys, strict=True))

    def cut(self, rows: Many[Sequence], micro_batch: int) -> list[tuple[Sequence, ...]]:
        """A step's micro-batches: packed sequences as they come, others with those of like length."""
        alike = rows if self.packed else sorted(rows, key=self.tokens)
        return [tuple(alike[at : at + micro_batch]) for at in range(0, len(alike), micro_batch)]

    def width(self, rows: Many[Sequence]) -> int:
        """Tokens of each of these sequences where they are one micro-batch, padding included."""
        if self.packed:
            return self.length
        return packing.padded_length(max(self.tokens(row) for row in rows), self.length)

    def tokens(self, row: Sequence) -> int:
        """Tokens of a sequence without padding."""
        return sum(self.lengths[sample] for sample in row.samples)

    def _of(self, number: int) -> Epoch:
        if number != self._epoch:
            visits = mixture.epoch(self.sizes, self.weights, self.seed, number)
            order = _array(self._offsets[visits.sets] + visits.samples)
            self._of_epoch = Epoch.of(self._sequences(order))
            self._epoch = number
        return self._of_epoch

    def _sequences(self, order: Many[int]) -> Iterator[tuple[int, ...]]:
        """An epoch's, of which each step takes the next ones: a group of like length is one step's."""
        if self.packed:
            return packing.pack(self.lengths, order, self.length)
        groups = packing.group(self.lengths, order, self.effective_batch)
        return ((sample,) for group in groups for sample in group)


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
        lengths=np.concatenate([made.train.lengths for made in corpora]),
        length=length,
        packed=packed,
        seed=seed,
        effective_batch=effective_batch,
    )


def per_epoch(order: Order) -> int:
    """Sequences of the first epoch."""
    return len(order._of(0))


def _array(numbers: Many[int] | Numbers) -> array[int]:
    """Eight bytes a number; its elements are Python's own, which plain loops are faster on than numpy's."""
    return array("q", np.asarray(numbers, dtype=np.int64).tobytes())
