"""All rules over one run: advice.json, the text, and the changed spec as a diff."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from lorac.advice import overfitted, unstable, weak
from lorac.advice.evidence import Evidence, measured
from lorac.advice.looked import Looked, Moved
from lorac.load import Loaded
from lorac.rewrite import rewritten
from runtime import plan
from runtime.errors import visible
from runtime.safeio import atomic, strict_json

FILE = "advice.json"
FORMAT = 1
RULES = (*unstable.RULES, *overfitted.RULES, *weak.RULES)
"""In their order: what does not train cannot overfit, and what overfits is not weak."""
OF_PICTURES = {overfitted.copies, overfitted.exposures, weak.pictures, weak.captions}
OF_TEXT = {weak.answers}
"""Rules that have nothing to say of the other kind of data."""


@attrs.frozen
class Advice:
    """What every rule found. `step` of `steps` were trained; `name` is the run's."""

    name: str
    step: int
    steps: int
    looked: tuple[Looked, ...]

    @property
    def findings(self) -> list[Looked]:
        return [one for one in self.looked if one.is_wrong]

    @property
    def sound(self) -> list[Looked]:
        return [one for one in self.looked if not one.is_wrong and not one.unknown]

    @property
    def unknown(self) -> list[Looked]:
        return [one for one in self.looked if one.unknown]

    @property
    def moves(self) -> dict[str, Moved]:
        """Every field that a finding moves; of two findings the first decides."""
        found: dict[str, Moved] = {}
        for one in self.findings:
            found = {**one.moves, **found}
        return found


def advise(folder: Path, has_diverged: bool = False) -> Advice:
    """Look at a run's folder. Raises InputError where it is none."""
    return judged(measured(folder, has_diverged))


def judged(of: Evidence) -> Advice:
    """What the rules make of it."""
    program = of.run.plan.program
    others = OF_TEXT if isinstance(program.data, plan.Images) else OF_PICTURES
    looked = tuple(rule(of) for rule in RULES if rule not in others)
    return Advice(of.run.name, of.run.step, program.train.steps, looked)


def write(advice: Advice, folder: Path) -> None:
    """advice.json, whole or not at all."""
    atomic.write_text(folder / FILE, strict_json.canonical(answer(advice)))


def answer(advice: Advice) -> dict[str, Any]:
    """As JSON data: what was found; what was looked at and is sound; what could not be looked at."""
    return {
        "format": FORMAT,
        "findings": [
            {
                "about": one.about,
                "kind": one.kind,
                "finding": one.finding,
                "figure": one.figure,
                "source": one.source,
                "change": one.change,
                "fields": {field: attrs.asdict(moved) for field, moved in one.moves.items()},
            }
            for one in advice.findings
        ],
        "sound": [{"about": one.about, "figure": one.figure} for one in advice.sound],
        "unknown": [{"about": one.about, "why": one.unknown} for one in advice.unknown],
    }


def text(advice: Advice) -> str:
    """For a terminal."""
    lines = []
    if advice.step < advice.steps:
        lines.append(f"{advice.name} is not finished: step {advice.step} of {advice.steps}.")
    for one in advice.findings:
        lines += [
            f"{one.kind}: {one.finding}",
            f"  {one.about}: {one.figure}",
            f"  bound by: {one.source}",
            *([f"  change {one.change}"] if one.change else []),
        ]
    if not advice.findings:
        lines.append(f"{advice.name} is healthy: nothing found in {len(advice.sound)} checks.")
    lines += [f"ok       {one.about}: {one.figure}" for one in advice.sound]
    lines += [f"unknown  {one.about}: {one.unknown}" for one in advice.unknown]
    return "\n".join(map(visible, lines))


def spec_diff(of: Loaded, moves: Mapping[str, Moved]) -> str:
    """The change as a unified diff of the spec; empty where there is none. Raises SpecError."""
    before = of.path.read_text(encoding="utf-8")
    after = rewritten(of, {field: moved.new for field, moved in moves.items()})
    name = of.path.as_posix()
    return "".join(
        difflib.unified_diff(before.splitlines(True), after.splitlines(True), name, f"{name} (advised)")
    )
