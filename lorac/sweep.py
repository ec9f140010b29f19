"""Several plans, run, with one table and one contact sheet: `lorac sweep`.

What is finished is known by its plan's hash and never run again, so a stopped sweep goes on by the same command, and
one with more values runs only those. A run that diverges is a result: the table says so, and the rest is run. How the
runs are carried out is an `Executor`'s business: one after another, or as tasks of Ray (`lorac.on_ray`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs

from lorac import figures, launch
from lorac.figures import Row, State
from lorac.generate import Written
from lorac.halving import Contender, watch
from runtime.errors import DivergedError, Interrupted, LoracError, Problem
from runtime.safeio import atomic, images, strict_json

TABLE, SHEET = "table.json", "sheet.png"
AGAIN = "run the same command again to go on"
TITLE = 18
"""Characters of a column's title that its width has room for."""


@attrs.frozen
class Job:
    """A plan on disk, and what was set in it."""

    written: Written
    settings: Mapping[str, Any]


@attrs.frozen
class Ended:
    """A job's process has ended: its exit code, and whether it was stopped for being weak."""

    job: Job
    code: int
    is_weak: bool = False


Tell = Callable[[str], None]
Executor = Callable[[Sequence[Job], Sequence[Contender], Tell], Generator[Ended, None, None]]
"""Carries jobs out, and yields each when it has ended; those that are weak among the contenders it stops. Closed before
its end, it stops what is running, in order."""


def one_after_another(
    jobs: Sequence[Job], among: Sequence[Contender], tell: Tell
) -> Generator[Ended, None, None]:
    """The executor that needs nothing: what the runs say is seen as they run."""
    for job in jobs:
        watched = watch(Contender.of(job.written.plan), among)
        code = launch.complete(job.written.path, is_enough=watched.look)
        yield Ended(job, code, watched.found_weak)


def sweep(
    jobs: Sequence[Job],
    folder: Path,
    executor: Executor = one_after_another,
    stops_weak: bool = False,
    tell: Tell = lambda words: None,
) -> list[Row]:
    """Run what has not been run, and write the table to `folder` after each run, the contact sheet at the end.

    Raises LoracError with a run's own exit code where one fails or is stopped.
    """
    lasting: tuple[State, ...] = ("diverged", "stopped") if stops_weak else ("diverged",)
    known = {plan_hash: state for state in lasting for plan_hash in before(folder, state)}
    plans = [job.written.plan for job in jobs]
    rows = [
        figures.row(of, job.settings, known.get(of.plan_hash, "waiting"))
        for job, of in zip(jobs, plans, strict=True)
    ]
    places = {row.name: place for place, row in enumerate(rows)}
    keep(figures.answer(rows), folder)
    waiting = [job for job, row in zip(jobs, rows, strict=True) if row.state == "waiting"]
    among = [Contender.of(of) for of in plans] if stops_weak else []
    try:
        with closing(executor(waiting, among, tell)) as running:
            for ended in running:
                row = outcome(ended, how_far(rows))
                rows[places[row.name]] = row
                keep(figures.answer(rows), folder)
                tell(f"{row.name}: {row.state}; {how_far(rows)}")
    except KeyboardInterrupt:
        raise Interrupted(Problem("", f"interrupted; {how_far(rows)}", AGAIN)) from None
    draw(rows, folder)
    return rows


def how_far(rows: Sequence[Row]) -> str:
    """ "runs done: 2 of 6"."""
    return f"runs done: {sum(row.state != 'waiting' for row in rows)} of {len(rows)}"


def outcome(of: Ended, how_far: str) -> Row:
    """What came of a job. Raises LoracError with its exit code, and how far all of it is, where that is no result."""
    plan, settings = of.job.written.plan, of.job.settings
    if of.is_weak and of.code:
        return figures.row(plan, settings, "stopped")
    if of.code == DivergedError.exit_code:
        return figures.row(plan, settings, "diverged")
    if of.code:
        raise failed(plan.outputs.name, of.code, how_far)
    return figures.row(plan, settings)


def failed(name: str, code: int, how_far: str) -> LoracError:
    """A process's own end, which has told why, as an error: its exit code, how far all of it is, what goes on."""
    error = LoracError(Problem(name, f"ended with exit code {code}; {how_far}", AGAIN))
    error.exit_code = code
    return error


def before(folder: Path, state: State) -> Collection[str]:
    """The plans that were in this state when the table was written: one that diverged would do the same again."""
    if not (folder / TABLE).is_file():
        return ()
    rows = strict_json.read(folder / TABLE)["rows"]
    return {row["plan_hash"] for row in rows if row["state"] == state}


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
