"""What an epoch's micro-batches are like, and how long they take beside full ones of the largest shape.

Memory wants the largest micro-batch, for one is enough to run out of it; time wants the mean. So the trace that gives
the peak gives a full micro-batch's seconds, and what is here the share of them that the real ones take: rows that are
padded to the longest of their micro-batch, pictures in buckets of which only some are the largest, what is left over
of a bucket.

- The micro-batches are those that the runtime will go through, by its own functions.
- Only whole steps are looked at: an epoch's last one may be short, and counts as the others do.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cache
from statistics import fmean
from typing import Any

import attrs
import numpy as np

from runtime import plan
from runtime.data import order as pictures
from runtime.data.order import Numbers
from runtime.text import sequences

LOOKED_AT = 10_000
"""Samples whose steps are looked at, spread evenly over the first epoch: their mean is an epoch's to a percent or so,
and a set of a million takes no longer."""


@attrs.frozen
class Micro:
    """A micro-batch: so many samples, each of this shape."""

    rows: int
    shape: plan.Shape


Step = Sequence[Micro]
Seconds = Callable[[Micro], float]


@attrs.frozen(kw_only=True)
class Epoch:
    """Whole steps of an epoch. `cut` makes the micro-batches of one, for a largest number of samples in each.

    `tokens` counts what a step trains on, where that may be padded.
    """

    steps: Sequence[Sequence[Any]]
    cut: Callable[[Sequence[Any], int], list[Micro]]
    tokens: Callable[[Sequence[Any]], int] | None = None
    shapes: Mapping[plan.Shape, int] = attrs.field(init=False)
    """How many samples have which shape by themselves: no micro-batch has another one."""

    @shapes.default
    def _shapes(self) -> Mapping[plan.Shape, int]:
        return Counter(micro.shape for step in self.steps for micro in self.cut(step, 1))


@attrs.frozen(kw_only=True)
class Dealt:
    """The mean over an epoch's steps: micro-batches of a step in the process that has the most, the share that each
    takes of a full one's seconds, and the share of places that hold no token (None for pictures)."""

    micro_batches: float
    share: float
    padding: float | None = None
    shapes: int = 1


def epoch(program: plan.Program, lengths: Numbers | None) -> Epoch | None:
    """The epoch of a program's data; `lengths` are the tokens of each text. None where all micro-batches are full and
    alike, or nothing is known of them: packed texts, pictures of one size, what is not at hand."""
    data, train = program.data, program.train
    if isinstance(data, plan.Texts):
        return None if data.packing or lengths is None else _rows(data, train, lengths)
    sizes = {item.bucket for item in data.items}
    if not sizes or (len(sizes) == 1 and data.expected >= train.effective_batch):
        return None
    order = pictures.Order(data, train.seed, train.effective_batch)

    def cut(step: Sequence[pictures.Sample], micro_batch: int) -> list[Micro]:
        groups = pictures.micro_batches(step, micro_batch)
        return [Micro(len(group), plan.shape(data, group[0].bucket)) for group in groups]

    return Epoch(steps=_looked_at(order.step, data.expected, train.effective_batch), cut=cut)


class Epochs:
    """The epochs of one set of data, each made once. `lengths` are the tokens of each text."""

    def __init__(self, lengths: Numbers | None) -> None:
        self.lengths = lengths
        self._known: dict[Hashable, Epoch | None] = {}

    def of(self, program: plan.Program) -> Epoch | None:
        """As `epoch` says."""
        train = program.train
        key = (program.data.digest, plan.largest(program.data), train.seed, train.effective_batch)
        if key not in self._known:
            self._known[key] = epoch(program, self.lengths)
        return self._known[key]


def _rows(data: plan.Texts, train: plan.Train, lengths: Numbers) -> Epoch:
    order = sequences.Order(
        sizes=[file.trained for file in data.files],
        weights=[file.weight for file in data.files],
        lengths=np.minimum(
            lengths, data.length
        ),  # a program may have been given a shorter one, to see its cost
        length=data.length,
        packed=False,
        seed=train.seed,
        effective_batch=train.effective_batch,
    )

    def cut(step: Sequence[sequences.Sequence], micro_batch: int) -> list[Micro]:
        return [Micro(len(rows), (order.width(rows),)) for rows in order.cut(step, micro_batch)]

    return Epoch(
        steps=_looked_at(order.step, sequences.per_epoch(order), train.effective_batch),
        cut=cut,
        tokens=lambda step: sum(order.tokens(row) for row in step),
    )


def _looked_at(
    step: Callable[[int], Sequence[Any]], samples: int, effective_batch: int
) -> list[Sequence[Any]]:
    """Whole steps, evenly spread; the only one, however short, of an epoch that has no other."""
    whole = max(samples // effective_batch, 1)
    apart = math.ceil(whole / max(LOOKED_AT // effective_batch, 1))
    return [step(number) for number in range(0, whole, apart)]


def dealt(of: Epoch, full: Micro, processes: int, seconds: Seconds) -> Dealt:
    """An epoch in micro-batches of up to `full.rows` samples, whose seconds are held against those of `full`.

    `seconds` need be right only as a ratio. A smaller micro-batch never counts more than a full one.
    """
    steps = [of.cut(step, full.rows) for step in of.steps]
    kinds = {micro for step in steps for micro in step}
    most = seconds(full)
    shares = {micro: 1.0 if micro == full else min(1.0, seconds(micro) / most) for micro in kinds}
    mine = [
        [[shares[micro] for micro in step[first::processes]] for first in range(processes)] for step in steps
    ]
    micro_batches = fmean(max(map(len, parts)) for parts in mine)
    return Dealt(
        micro_batches=micro_batches,
        share=fmean(max(map(math.fsum, parts)) for parts in mine) / micro_batches,
        padding=_padding(of, steps),
        shapes=len({micro.shape for micro in kinds}),
    )


def _padding(of: Epoch, steps: Sequence[Step]) -> float | None:
    if of.tokens is None:
        return None
    places = sum(micro.rows * math.prod(micro.shape) for step in steps for micro in step)
    return 1 - sum(map(of.tokens, of.steps)) / places


# ------------------------------------------------------------------------------------------------- between shapes


def compared(
    of: Epoch, program: plan.Program, alone: plan.Program, seconds: Callable[[plan.Program, int], float]
) -> Dealt:
    """The program's micro-batches beside its full ones. `alone` is the program with single samples, and `seconds` those
    of so many of a program's largest samples at once, by its trace."""
    full = Micro(program.train.micro_batch, plan.largest(program.data))
    at = knots(of, full.shape)
    traced = [resized(alone, shape) for shape in at]

    @cache
    def known(rows: int) -> list[float]:
        return [seconds(one, rows) for one in traced]

    return dealt(of, full, program.train.processes, lambda one: between(at, known(one.rows), one.shape))


def size(shape: plan.Shape) -> int:
    """What a shape's seconds grow with: its tokens, or its pixels."""
    return math.prod(shape)


def knots(of: Epoch, largest: plan.Shape) -> list[plan.Shape]:
    """The shapes to trace, smallest first, between which seconds are taken to lie on straight lines: the smallest that
    occurs, the largest, and, where that is more than twice as large, the one that is nearest to the samples' mean.

    Seconds grow as tokens or pixels do, and attention's with their square: a line between two lies a little too high.
    """
    by_size = {size(shape): shape for shape in sorted(of.shapes)}
    low, high = min(by_size), size(largest)
    sizes = {low, high}
    if low < high / 2:
        mean = fmean(map(size, of.shapes), of.shapes.values())
        sizes.add(min(by_size, key=lambda one: (abs(one - mean), one)))
    return [{**by_size, high: largest}[one] for one in sorted(sizes)]


def between(at: Sequence[plan.Shape], seconds: Sequence[float], shape: plan.Shape) -> float:
    """The seconds of a shape, from those of the shapes `at`, which are sorted by size."""
    return float(np.interp(size(shape), [size(one) for one in at], seconds))


def resized(program: plan.Program, shape: plan.Shape) -> plan.Program:
    """The program with data of this one shape: for its cost, not for training."""
    data = program.data
    if isinstance(data, plan.Texts):
        (length,) = shape
        return attrs.evolve(program, data=attrs.evolve(data, length=length))
    width, height, *_ = shape
    item = attrs.evolve(data.items[0], bucket=(width, height))
    return attrs.evolve(program, data=attrs.evolve(data, items=(item,), held_items=()))
