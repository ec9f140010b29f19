"""Several plans, run one after another, with one table and one contact sheet: `lorac sweep`.

What is finished is known by its plan's hash and never run again, so a stopped sweep goes on by the same command, and
one with more values runs only those. A run that diverges is a result: the table says so, and the rest is run.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from lorac import figures, launch
from lorac.figures import Row
from lorac.generate import Written
from runtime.errors import DivergedError, LoracError, Problem
from runtime.safeio import atomic, images, strict_json

TABLE, SHEET = "table.json", "sheet.png"
TITLE = 18
"""Characters of a column's title that its width has room for."""


@attrs.frozen
class Job:
    """A plan on disk, and what was set in it."""

    written: Written
    settings: Mapping[str, Any]


def sweep(jobs: Sequence[Job], folder: Path) -> list[Row]:
    """Run what has not been run, and write the table to `folder` after each run, the contact sheet at the end.

    Raises LoracError with a run's own exit code where one fails or is stopped.
    """
    gone = diverged(folder)
    rows = [figures.row(job.written.plan, job.settings, job.written.plan.plan_hash in gone) for job in jobs]
    for place, job in enumerate(jobs):
        if rows[place].state == "waiting":
            try:
                rows[place] = attempt(job)
            except LoracError as error:
                done = sum(row.state != "waiting" for row in rows)
                raise stopped(error, f"runs done: {done} of {len(rows)}") from None
        keep(figures.answer(rows), folder)
    draw(rows, folder)
    return rows


def attempt(job: Job) -> Row:
    """Run a plan to its end, or until it diverges. Raises LoracError with the run's exit code."""
    code = launch.complete(job.written.path)
    if code not in (0, DivergedError.exit_code):
        raise failed(job.written.plan.outputs.name, code)
    return figures.row(job.written.plan, job.settings, has_diverged=code != 0)


def failed(name: str, code: int) -> LoracError:
    """A process's own end, which has told why, as an error with its exit code."""
    error = LoracError(Problem(name, f"ended with exit code {code}"))
    error.exit_code = code
    return error


def diverged(folder: Path) -> Collection[str]:
    """The plans that diverged before: the same plan would do the same again."""
    if not (folder / TABLE).is_file():
        return ()
    rows = strict_json.read(folder / TABLE)["rows"]
    return {row["plan_hash"] for row in rows if row["state"] == "diverged"}


def stopped(error: LoracError, how_far: str) -> LoracError:
    """A run's own end, with how far all of it is and what goes on."""
    what = attrs.evolve(error.problems[0], what=f"{error.problems[0].what}; {how_far}")
    told = LoracError(attrs.evolve(what, hint="run the same command again to go on"))
    told.exit_code = error.exit_code
    return told


def keep(table: Mapping[str, Any], folder: Path) -> None:
    """Write the table there, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    atomic.write_text(folder / TABLE, strict_json.canonical(table))


def draw(rows: Sequence[Row], folder: Path) -> None:
    """The contact sheet: the last pictures of each run, a column for each; none without two of equal prompts."""
    from runtime.sampling import save_png
    from runtime.sheet import sheet

    winner = figures.best(rows)
    prompts = {row.plan.outputs.samples.prompts for row in rows}
    columns = {}
    for number, row in enumerate(rows, 1):
        files = sorted((figures.folder(row.plan) / "samples").glob("final-*.png"))
        if row.state == "done" and files:
            values = ", ".join(figures.said(value) for value in row.settings.values()) or row.name
            title = f"{number}{'*' if row is winner else ''}: {values}"[:TITLE]
            columns[title] = [images.open_picture(file) for file in files]
    if len(columns) > 1 and len(prompts) == 1:
        save_png(sheet(prompts.pop(), columns), folder / SHEET)
