"""Several plans, run, with one table and one contact sheet: `lorac sweep`.

What is finished is known by its plan's hash and never run again, so a stopped sweep goes on by the same command, and
one with more values runs only those. A run that diverges is a result: the table says so, and the rest is run. How the
runs are carried out is an `Executor`'s business: one after another, or as tasks of Ray (`lorac.on_ray`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
Executor = Callable[[Sequence[Job], Sequence[Contender], Tell], Iterator[Ended]]
"""Carries jobs out, and yields each when it has ended; those that are weak among the contenders it stops. Closed before
its end, it stops what is running, in order."""


def one_after_another(jobs: Sequence[Job], among: Sequence[Contender], tell: Tell) -> Iterator[Ended]:
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
    known = before(folder)
    lasting = {"diverged", "stopped"} if stops_weak else {"diverged"}
    rows = {}
    for job in jobs:
        state = known.get(job.written.plan.plan_hash, "waiting")
        one = figures.row(job.written.plan, job.settings, state if state in lasting else "waiting")
        rows[one.name] = one
    keep(figures.answer([*rows.values()]), folder)
    waiting = [job for job in jobs if rows[job.written.plan.outputs.name].state == "waiting"]
    among = [Contender.of(job.written.plan) for job in jobs] if stops_weak else []
    try:
        with closing(executor(waiting, among, tell)) as ends:
            for ended in ends:
                one = outcome(ended)
                rows[one.name] = one
                keep(figures.answer([*rows.values()]), folder)
                tell(f"{one.name}: {one.state}; {how_far([*rows.values()])}")
    except (LoracError, KeyboardInterrupt) as error:
        end = error if isinstance(error, LoracError) else Interrupted(Problem("", "interrupted"))
        raise stopped(end, how_far([*rows.values()])) from None
    draw([*rows.values()], folder)
    return [*rows.values()]


def how_far(rows: Sequence[Row]) -> str:
    """ "runs done: 2 of 6"."""
    return f"runs done: {sum(row.state != 'waiting' for row in rows)} of {len(rows)}"


def attempt(job: Job) -> Row:
    """Run a plan to its end, or until it diverges. Raises LoracError with the run's exit code."""
    return outcome(Ended(job, launch.complete(job.written.path)))


def outcome(of: Ended) -> Row:
    """What came of a job. Raises LoracError with its exit code where that is no result."""
    plan = of.job.written.plan
    if of.is_weak and of.code:
        return figures.row(plan, of.job.settings, "stopped")
    if of.code == DivergedError.exit_code:
        return figures.row(plan, of.job.settings, "diverged")
    if of.code:
        raise failed(plan.outputs.name, of.code)
    return figures.row(plan, of.job.settings)


def failed(name: str, code: int) -> LoracError:
    """A process's own end, which has told why, as an error with its exit code."""
    error = LoracError(Problem(name, f"ended with exit code {code}"))
    error.exit_code = code
    return error


def before(folder: Path) -> dict[str, State]:
    """Each plan's state in the table of an earlier time, by its hash: one that diverged would do the same again."""
    if not (folder / TABLE).is_file():
        return {}
    return {row["plan_hash"]: row["state"] for row in strict_json.read(folder / TABLE)["rows"]}


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
