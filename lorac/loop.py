"""Plan, train, evaluate, advise, and again with what was advised: `lorac loop`.

Every round is a spec that can be read and run by itself, its run, and its advice; none is thrown away. Nothing is left
to chance: the same files lead to the same decisions, so a stopped loop goes on by the same command. A round makes one
change, that of the first finding, so that what it brought is known; while a sound round gained by its change, that is
made once more.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from lorac import changes, figures, launch, sweep
from lorac.advice.advise import Advice, advise, answer, write
from lorac.advice.looked import Moved, Moves, words
from lorac.figures import Gain, Row
from lorac.generate import generate
from lorac.load import Loaded
from lorac.rewrite import written
from lorac.sweep import TABLE, Ended, Job
from runtime import plan
from runtime.safeio import strict_json

CHANGED = ("train.learning_rate", "train.steps", "train.max_grad_norm")
"""What a loop changes by itself: how it is trained, never what is learned from or what a loss means."""


@attrs.frozen(kw_only=True)
class Limits:
    """When a loop ends at the latest: rounds, and seconds of this machine's time."""

    rounds: int
    seconds: float


@attrs.frozen(kw_only=True)
class Places:
    """Where the rounds' specs, their plans and the table go."""

    specs: Path
    plans: Path
    table: Path


@attrs.frozen(kw_only=True)
class Round:
    """One round. `moves`: what it has other than the round before; `gain`: over the best before it, where both can be
    compared; `seconds`: all that it took, planning too."""

    spec: Loaded
    row: Row
    advice: Advice
    moves: Moves
    gain: Gain | None
    seconds: float


@attrs.frozen
class Known:
    """Of rounds that were run before: what each plan's took, so that reading it again takes nothing of the budget, and
    the plans that diverged."""

    seconds: Mapping[str, float]
    diverged: Collection[str]

    @classmethod
    def read(cls, folder: Path) -> Known:
        """From the table in this folder, if there is one."""
        rounds = strict_json.read(folder / TABLE)["rounds"] if (folder / TABLE).is_file() else []
        seconds = {one["plan_hash"]: one["seconds"] for one in rounds}
        return cls(seconds, sweep.before(folder, "diverged"))


@attrs.frozen
class Looped:
    """All rounds, and why there is no further one."""

    rounds: tuple[Round, ...]
    reason: str

    @property
    def rows(self) -> list[Row]:
        """A row a round, with every field that any round changed."""
        fields = list(dict.fromkeys(field for one in self.rounds for field in one.moves))
        return [
            attrs.evolve(one.row, settings={field: _value(one.spec, field) for field in fields})
            for one in self.rounds
        ]


def loop(first: Loaded, places: Places, limits: Limits, card: str | None = None) -> Looped:
    """Round after round until one brings no gain beyond the noise, or nothing is left to change.

    Raises what planning raises, and LoracError with a run's own exit code where one fails or is stopped.
    """
    rounds: list[Round] = []
    known = Known.read(places.table)
    spec, moves, name = first, dict[str, Any](), first.experiment.name
    while True:
        values = {field: moved.new for field, moved in moves.items()}
        number = len(rounds) + 1
        spec = written(
            spec, {"name": f"{name}-round-{number}", **values}, places.specs / f"round-{number}.py"
        )
        rounds.append(_round(spec, moves, rounds, places.plans, card, known))
        reason = why_end(rounds, limits)
        made = Looped(tuple(rounds), reason)
        if reason or rounds[-1].row.plan.plan_hash not in known.seconds:
            sweep.keep(told(made), places.table)  # never less than what is known
        if reason:
            sweep.draw(made.rows, places.table)
            return made
        moves = dict(next_moves(rounds[-1]))


def why_end(rounds: Sequence[Round], limits: Limits) -> str:
    """Why there is no further round; empty where there is."""
    last = rounds[-1]
    moves = next_moves(last)
    if last.row.state == "done" and len(rounds) > 1:
        if last.gain is None and any(one.row.state == "done" for one in rounds[:-1]):
            return "the losses of its rounds cannot be compared"
        if last.gain is not None and not last.gain.is_real:
            return f"no gain beyond the noise: {last.gain.value:.4f}, noise ± {last.gain.noise:.4f}"
    if not moves:
        return "what is found, a loop may not change" if last.advice.findings else "the round is healthy"
    if _were_tried(moves, rounds):
        return "what is advised was tried before"
    if len(rounds) >= limits.rounds:
        return f"{limits.rounds} rounds are done"
    spent = sum(one.seconds for one in rounds)
    if spent + last.seconds > limits.seconds:
        return f"another round would go beyond the budget: {spent / 60:.1f} minutes are spent"
    return ""


def next_moves(last: Round) -> Moves:
    """What the first finding changes of that which a loop may; of a sound round what brought its gain, once more."""
    for finding in last.advice.findings:
        moves = {field: moved for field, moved in finding.moves.items() if field in CHANGED}
        if moves:
            return moves
    if last.advice.findings or last.gain is None or not last.gain.is_real:
        return {}
    return {
        field: Moved(moved.new, _once_more(field, moved)) for field, moved in last.moves.items() if moved.old
    }


def _once_more(field: str, moved: Moved) -> Any:
    """A step of the same factor."""
    value = moved.new * moved.new / moved.old
    return max(1, round(value)) if field == "train.steps" else min(1.0, float(f"{value:.2g}"))


def _round(
    spec: Loaded, moves: Moves, before: Sequence[Round], plans: Path, card: str | None, known: Known
) -> Round:
    """Plan, train, evaluate and advise; what is done already is only read."""
    began = time.monotonic()
    planned = generate([spec], plans, card=card)[0]
    mark = planned.plan.plan_hash
    row = figures.row(planned.plan, {}, "diverged" if mark in known.diverged else "waiting")
    if row.state == "waiting":
        how_far = f"rounds done: {len(before)}"
        row = sweep.outcome(Ended(Job(planned, {}), launch.complete(planned.path)), how_far)
        if row.state == "done":
            _evaluate(planned.plan, how_far)
    folder = figures.folder(planned.plan)
    advice = advise(folder, has_diverged=row.state == "diverged")
    write(advice, folder)
    best = figures.best([one.row for one in before])
    return Round(
        spec=spec,
        row=row,
        advice=advice,
        moves=moves,
        gain=figures.gain(best, row) if best else None,
        seconds=known.seconds.get(mark, time.monotonic() - began),
    )


def _evaluate(of: plan.Plan, how_far: str) -> None:
    """`lorac eval` of what was exported, at the weight that it is for. Raises LoracError with its exit code."""
    options = ["--checkpoints=last", f"--weights={of.outputs.preferred_weight:g}"]
    code = launch.complete(figures.folder(of), "runtime.evaluation", options)
    if code:
        raise sweep.failed(of.outputs.name, code, how_far)


def _were_tried(moves: Moves, rounds: Sequence[Round]) -> bool:
    """Whether these moves lead from the last round to one that was."""
    tried = [{field: _value(one.spec, field) for field in CHANGED} for one in rounds]
    return {**tried[-1], **{field: moved.new for field, moved in moves.items()}} in tried


def _value(of: Loaded, field: str) -> Any:
    place, _, name = field.rpartition(".")
    return getattr(changes.at(of.experiment, place), name)


# ------------------------------------------------------------------------------------------------------------- telling


def told(of: Looped) -> dict[str, Any]:
    """The loop as JSON data: the table, and of each round its spec, what it changed, gained and was advised."""
    rounds = [
        {
            "spec": one.spec.path.as_posix(),
            "plan_hash": one.row.plan.plan_hash,
            "seconds": one.seconds,
            "fields": {field: attrs.asdict(moved) for field, moved in one.moves.items()},
            "gain": attrs.asdict(one.gain) if one.gain else None,
            "advice": answer(one.advice)["findings"],
        }
        for one in of.rounds
    ]
    return {**figures.answer(of.rows), "rounds": rounds, "reason": of.reason}


def text(of: Looped, width: int) -> str:
    """For a terminal: each round's change, gain and findings, then the table."""
    lines = []
    for number, one in enumerate(of.rounds, 1):
        lines.append(f"round {number}  {one.spec.path.as_posix()}  {words(one.moves)}".rstrip())
        if one.gain is not None:
            lines.append(f"  gain {one.gain.value:.4f}, noise ± {one.gain.noise:.4f}")
        lines += [f"  {found.kind}: {found.finding} ({found.figure})" for found in one.advice.findings]
    return "\n".join([*lines, "", figures.text(of.rows, width), "", f"Ended: {of.reason}."])
