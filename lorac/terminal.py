"""What the commands show on a terminal: lines, bars, JSON; and how wide it is."""

from __future__ import annotations

import atexit
import gc
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from runtime.errors import visible
from runtime.human import columns, fitted

WIDTH = 100
"""Columns where nobody says how many there are."""


@contextmanager
def uncollected() -> Iterator[None]:
    """No search for garbage meanwhile, nor at the end: libraries make a million objects that last, and each search
    goes through all of them. Saves a quarter of the time of the imports, and two seconds at the end. The tracer
    collects by itself."""
    atexit.register(gc.freeze)
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@contextmanager
def telling() -> Iterator[Callable[[str], None]]:
    """One line on a terminal that says what is being done now, gone at the end; silent elsewhere."""
    clear = "\r\x1b[K"

    def tell(words: str) -> None:
        click.echo(f"{clear}{visible(words)[: (columns(sys.stderr) or WIDTH) - 3]} …", nl=False, err=True)

    if not sys.stderr.isatty():
        yield lambda words: None
        return
    try:
        yield tell
    finally:
        click.echo(clear, nl=False, err=True)


@contextmanager
def progress() -> Iterator[Callable[[str, str, float], None]]:
    """A bar for each job on a terminal, by name, with what it does and the share that is done; silent elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn(compact=True))
    jobs: dict[str, TaskID] = {}
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:

        def tell(job: str, what: str, share: float) -> None:
            if job not in jobs:
                jobs[job] = bars.add_task(job, total=1.0)
            bars.update(jobs[job], description=visible(f"{job}: {what}"), completed=share)

        yield tell


def say(text: str, err: bool = False) -> None:
    """Print lines, on stderr with `err`; on a terminal what is wider than it is broken between words."""
    click.echo(fitted(text, sys.stderr if err else sys.stdout), err=err)


def print_json(value: Any) -> None:
    from runtime.safeio.strict_json import canonical

    click.echo(canonical(value), nl=False)


def width() -> int:
    return shutil.get_terminal_size((WIDTH, 24)).columns


def block() -> str:
    """What bars are made of: a full block where the terminal can show it."""
    try:
        "█".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return "#"
    return "█"
