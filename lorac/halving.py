"""Which runs of a sweep are not worth their end: asynchronous successive halving.

ASHA (Li et al. 2020, "A System for Massively Parallel Hyperparameter Tuning", algorithm 2, in the form that stops and
never pauses): a run that reaches a rung is held against all that have come as far, whenever they did, and goes on if it
is among the best third. Here it also goes on where it is worse by no more than chance.

What the others came to is read from their metrics: a sweep that was stopped, or that runs on several machines, needs no
memory of its own.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import attrs

from lorac import figures
from lorac.figures import Row
from runtime import plan
from runtime.errors import LoracError

FACTOR = 3
"""Of the runs at a rung one in three goes on, and the next rung is three times as far (the paper's η is 4, Ray Tune's
too; sweeps of a LoRA have few runs)."""
TAIL = 4096
"""Bytes at the end of a file of metrics that hold its last lines."""


@attrs.frozen(kw_only=True)
class Contender:
    """A run of a sweep as the others see it: where it writes, which plan it is of, how long it is."""

    folder: Path
    metrics: Path
    plan_hash: str
    steps: int

    @classmethod
    def of(cls, one: plan.Plan) -> Contender:
        """The run of a plan."""
        return cls(
            folder=figures.folder(one),
            metrics=Path(one.outputs.places.log) / "metrics.jsonl",
            plan_hash=one.plan_hash,
            steps=one.program.train.steps,
        )


def rungs(steps: int) -> list[int]:
    """After which steps a run of so many is judged: a ninth and a third of them, where a loss can be told there.

    Not sooner: what is learned fastest is then all that a loss shows.
    """
    shares = (steps // FACTOR**2, steps // FACTOR)
    return [step for step in shares if step >= figures.LEAST_STEPS]


def is_weak(mine: Row, others: Sequence[Row]) -> bool:
    """Whether a run is worse than the best third of all, beyond the noise. Never where their losses mean different
    things."""
    by = figures.yardstick([mine, *others])
    losses = {id(one): found.mean for one in (mine, *others) if (found := figures.loss(one, by))}
    if not losses:
        return False
    ranked = sorted((mine, *others), key=lambda one: losses[id(one)])
    best = ranked[: math.ceil(len(ranked) / FACTOR)]
    if any(one is mine for one in best):
        return False
    fall = figures.gain(mine, best[-1])
    return fall is not None and fall.is_real


@attrs.define
class Watch:
    """Follows a run, and judges it once at each rung that it had not reached before."""

    mine: Contender
    others: Sequence[Contender]
    found_weak: bool = False
    """Whether it has been stopped for it."""
    left: list[int] = attrs.field(init=False)

    @left.default
    def _rungs_to_come(self) -> list[int]:
        before = _begun(self.mine)
        return [rung for rung in rungs(self.mine.steps) if before is None or rung > before.step]

    def look(self) -> bool:
        """Whether the run has just turned out to be weak."""
        if not self.others or not self.left or last_step(self.mine.metrics) < self.left[0]:
            return False
        own = _begun(self.mine)
        row = figures.after(own, self.left[0]) if own else None
        if row is None:  # the metrics are those of an earlier run, which is about to be moved aside
            return False
        rung = self.left.pop(0)
        runs = [found for one in self.others if (found := _begun(one))]
        self.found_weak = is_weak(row, [at for run in runs if (at := figures.after(run, rung))])
        return self.found_weak


def watch(mine: Contender, among: Sequence[Contender]) -> Watch:
    """A watch on one of several; where they are none, nothing is judged."""
    return Watch(mine, [one for one in among if one.folder != mine.folder])


def last_step(metrics: Path) -> int:
    """The last step that a file of metrics has whole, without reading all of it; 0 where there is none."""
    try:
        with metrics.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - TAIL))
            lines = file.read().split(b"\n")[:-1]
        return int(json.loads(lines[-1])["step"])
    except (OSError, IndexError, ValueError, KeyError, TypeError):
        return 0


def _begun(of: Contender) -> figures.Run | None:
    try:
        return figures.begun(of.folder, of.plan_hash)
    except (LoracError, OSError):  # half moved aside
        return None
