"""What came of runs as rows of a table: losses with their uncertainty, seconds, memory, which one is the best."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs

from runtime import plan
from runtime.human import clock, size
from runtime.report.gather import Point, Run, gather

LAST_SHARE, LEAST_STEPS = 4, 10
"""The last loss is the mean over the last quarter of the steps, of ten at least: late enough, and long enough to tell
its noise."""
NORMAL_95 = 1.96
"""Standard errors to each side of a mean that hold it in 95 of 100 cases."""

State = Literal["done", "diverged", "stopped", "waiting"]
"""How far a run is: `stopped` before its end, for it fell behind others (`lorac.halving`)."""
HELD_OUT, TRAINING = "held-out loss", "training loss"


@attrs.frozen(kw_only=True)
class Loss:
    """A mean loss; `low` and `high` bound it to 95 %, and are the mean where that is not known.

    `steps`: of a training loss, each step's that it is the mean of.
    """

    mean: float
    low: float
    high: float
    steps: tuple[float, ...] = ()


@attrs.frozen(kw_only=True)
class Row:
    """One run. `settings`: what was set in it; `plan`: what was to be done."""

    name: str
    settings: Mapping[str, Any]
    plan: plan.Plan
    state: State
    training: Loss | None = None
    held_out: Loss | None = None
    seconds: float = 0.0
    peak_bytes: int = 0


@attrs.frozen
class Gain:
    """By how much a loss fell, and how large a fall chance alone would make (95 %)."""

    value: float
    noise: float

    @property
    def is_real(self) -> bool:
        """Whether it is beyond the noise."""
        return self.value > self.noise


def folder(of: plan.Plan) -> Path:
    """Where a plan's run writes."""
    return Path(of.outputs.places.output)


def row(of: plan.Plan, settings: Mapping[str, Any], otherwise: State = "waiting") -> Row:
    """What came of a plan; `otherwise` is its state where its run has no end."""
    found = finished(of)
    if found is None:
        return Row(name=of.outputs.name, settings=settings, plan=of, state=otherwise)
    assert found.manifest is not None
    facts = found.manifest.run
    return Row(
        name=of.outputs.name,
        settings=settings,
        plan=of,
        state="done",
        training=last(found.metrics.get("loss", ()), facts.steps),
        held_out=held_out(found),
        seconds=facts.seconds,
        peak_bytes=facts.peak_bytes,
    )


def finished(of: plan.Plan) -> Run | None:
    """The run of this plan if it has ended; None before, and where the folder holds another plan's."""
    found = begun(folder(of), of.plan_hash)
    return found if found and found.manifest and found.manifest.plan_hash == of.plan_hash else None


def begun(where: Path, plan_hash: str) -> Run | None:
    """The run of this plan in a folder, ended or not; None where there is none, or another plan's."""
    if not (where / "plan.json").is_file():
        return None
    found = gather(where)
    return found if found.plan.plan_hash == plan_hash else None


def after(of: Run, steps: int) -> Row | None:
    """The row of a run as if it had ended after so many steps; None where it has not come so far.

    What is held out counts once it was measured after the first step: before it, all runs have the same loss.
    """
    losses = of.metrics.get("loss", ())
    if not losses or losses[-1].step < steps:
        return None
    measured = {step: found for step, found in bounded(of).items() if 0 < step <= steps}
    return Row(
        name=of.name,
        settings={},
        plan=of.plan,
        state="done",
        training=last(losses, steps),
        held_out=measured[max(measured)] if measured else None,
    )


def last(points: Sequence[Point], steps: int) -> Loss | None:
    """The mean over the last quarter of the first `steps` steps."""
    values = [point.value for point in points if point.step <= steps]
    return mean(values[-max(LEAST_STEPS, len(values) // LAST_SHARE) :])


def mean(values: Sequence[float]) -> Loss | None:
    """The mean of losses of steps: they are independent, as no two steps share noise."""
    if not values:
        return None
    middle = statistics.fmean(values)
    half = NORMAL_95 * statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return Loss(mean=middle, low=middle - half, high=middle + half, steps=tuple(values))


def held_out(of: Run) -> Loss | None:
    """The loss on what is held out, of the checkpoint that was exported; the last measured where that was not."""
    measured = bounded(of)
    if not measured:
        return None
    exported = of.manifest.run.steps if of.manifest else of.step
    return measured.get(exported, measured[max(measured)])


def bounded(of: Run) -> dict[int, Loss]:
    """Every measurement of the held-out loss by its step."""
    return {
        at.step: Loss(
            mean=at.value,
            low=at.value if at.low is None else at.low,
            high=at.value if at.high is None else at.high,
        )
        for at in of.metrics.get("held_out/loss", ())
    }


# ---------------------------------------------------------------------------------------------------------- comparing


def yardstick(rows: Sequence[Row]) -> str:
    """By which loss runs are compared; empty where their losses mean different things, or none has one."""
    done = [one for one in rows if one.state == "done"]
    for by in (HELD_OUT, TRAINING):
        if done and all(loss(one, by) for one in done):
            first, *others = (_meaning(one.plan, by) for one in done)
            if all(other == first for other in others):
                return by
    return ""


def _meaning(of: plan.Plan, by: str) -> tuple[object, ...]:
    """What a loss is of. How the data are varied in training (flips, dropout) is nothing to what is held out."""
    data: object = of.program.data
    if by == HELD_OUT and isinstance(data, plan.Images):
        data = (data.digest, data.mask, data.unmasked_weight)
    return of.program.base.digest, data, of.program.train.objective


def loss(of: Row, by: str) -> Loss | None:
    """A row's loss by this yardstick."""
    return of.held_out if by == HELD_OUT else of.training if by == TRAINING else None


def best(rows: Sequence[Row]) -> Row | None:
    """The row with the least loss, the first of equals; None where they cannot be compared."""
    by = yardstick(rows)
    measured = [(found.mean, one) for one in rows if (found := loss(one, by)) is not None]
    return min(measured, key=lambda pair: pair[0])[1] if measured else None


def gain(before: Row, after: Row) -> Gain | None:
    """How much better the second is; None where they cannot be compared.

    Runs of equal seed, steps and batch see the same samples with the same noise at each step: their training losses are
    compared step by step, which leaves out what both share.
    """
    by = yardstick([before, after])
    first, second = loss(before, by), loss(after, by)
    if first is None or second is None:
        return None
    if by == TRAINING and _are_paired(before, after):
        gaps = [a - b for a, b in zip(first.steps, second.steps, strict=True)]
        fall = mean(gaps)
        assert fall is not None
        return Gain(fall.mean, fall.high - fall.mean)
    halves = [(one.high - one.low) / 2 for one in (first, second)]
    return Gain(first.mean - second.mean, math.hypot(*halves))


def _are_paired(before: Row, after: Row) -> bool:
    first, second = before.plan.program.train, after.plan.program.train
    same = ("seed", "steps", "effective_batch")
    return all(getattr(first, name) == getattr(second, name) for name in same)


# ------------------------------------------------------------------------------------------------------------ showing


def answer(rows: Sequence[Row]) -> dict[str, Any]:
    """The table as JSON data."""
    winner = best(rows)
    return {
        "format": 1,
        "by": yardstick(rows),
        "best": winner.name if winner else None,
        "rows": [
            {
                "name": one.name,
                "plan_hash": one.plan.plan_hash,
                "settings": dict(one.settings),
                "state": one.state,
                "training_loss": _bounds(one.training),
                "held_out_loss": _bounds(one.held_out),
                "seconds": one.seconds,
                "peak_bytes": one.peak_bytes,
            }
            for one in rows
        ],
    }


def _bounds(of: Loss | None) -> dict[str, float] | None:
    return {"mean": of.mean, "low": of.low, "high": of.high} if of else None


def text(rows: Sequence[Row], width: int) -> str:
    """The table for a terminal: what was set, what came out, the best marked."""
    from lorac.render import table

    winner, by = best(rows), yardstick(rows)
    fields = list(dict.fromkeys(field for one in rows for field in one.settings))
    head = [*(fields or ["run"]), TRAINING, HELD_OUT, "time", "memory", ""]
    lines = [
        [
            *([said(one.settings.get(field, "")) for field in fields] or [one.name]),
            _said_loss(one.training),
            _said_loss(one.held_out),
            clock(one.seconds) if one.state == "done" else "",
            size(one.peak_bytes) if one.state == "done" else "",
            "best" if one is winner else "" if one.state == "done" else one.state,
        ]
        for one in rows
    ]
    kept = [place for place in range(len(head)) if any(line[place] for line in lines)]
    shown = [[line[place] for place in kept] for line in (head, *lines)]
    return "\n".join([*table(shown, width), *_remarks(rows, by)])


def _remarks(rows: Sequence[Row], by: str) -> list[str]:
    if by == HELD_OUT or sum(one.state == "done" for one in rows) < 2:
        return []
    if by == TRAINING:
        return ["Nothing is held out: the best is by the training loss, which a LoRA that copies wins, too."]
    return ["No best: base, data or objective differ, and with them what a loss means."]


def said(value: object) -> str:
    """A value as the table has it."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _said_loss(of: Loss | None) -> str:
    if of is None:
        return ""
    half = (of.high - of.low) / 2
    return f"{of.mean:.4f} ± {half:.4f}" if half else f"{of.mean:.4f}"
