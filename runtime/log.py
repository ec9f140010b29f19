"""What a run says while it runs: plain lines, a progress bar on a terminal, metrics.jsonl, TensorBoard."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from runtime.errors import MachineError, Problem, visible
from runtime.human import clock, size, wrapped

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Bar", "Metrics", "apart", "clock", "fields", "info", "size", "warn"]

CONSOLE = Console(highlight=False, soft_wrap=True)
PLAIN_EVERY = 10.0
"""Seconds between lines where there is no terminal to draw a bar on."""


def info(text: str) -> None:
    """A line for the user."""
    _print("[INFO]", text)


def begins(text: str) -> None:
    """A line for whoever looks at a terminal while nothing moves on it yet; none elsewhere."""
    if CONSOLE.is_terminal:
        info(text)


def warn(text: str) -> None:
    """A line that asks for attention."""
    _print("[WARN]", text, "yellow")


def _print(mark: str, text: str, style: str | None = None) -> None:
    width = CONSOLE.width if CONSOLE.is_terminal else None
    CONSOLE.print(wrapped(f"{mark} {visible(text)}", width), markup=False, style=style)


@contextmanager
def apart(on: bool) -> Iterator[None]:
    """Where `on`, what is said goes to stderr while this lasts: stdout is for JSON alone."""
    before, CONSOLE.stderr = CONSOLE.stderr, on
    try:
        yield
    finally:
        CONSOLE.stderr = before


class Metrics:
    """metrics.jsonl, one object a line, and the same as TensorBoard scalars and pictures."""

    def __init__(self, folder: Path, from_step: int) -> None:
        self.folder = folder
        with self._writing():
            folder.mkdir(parents=True, exist_ok=True)
            self._open(from_step)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """What the disk refuses is told as such; TensorBoard's own thread hands it on with the next call."""
        try:
            yield
        except OSError as error:
            what = f"metrics cannot be written: {(error.strerror or str(error)).lower()}"
            hint = "free some space, then run the same command again; or write them elsewhere: --log DIR"
            raise MachineError(Problem(str(self.folder), what, hint)) from error

    def _open(self, from_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path = self.folder / "metrics.jsonl"
        if path.exists():  # the steps after a checkpoint are written again
            lines = [line for line in path.read_text().splitlines() if _step(line) <= from_step]
            path.write_text("".join(f"{line}\n" for line in lines))
        self.file = path.open("a", encoding="utf-8")
        self.board = SummaryWriter(str(self.folder), purge_step=from_step or None)

    def rewind(self, step: int) -> None:
        """Drop what was recorded after `step`: the run goes on from there."""
        self.close()
        with self._writing():
            self._open(step)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Record numbers of a step."""
        with self._writing():
            self.file.write(json.dumps({"step": step, **values}) + "\n")
            self.file.flush()
            for name, value in values.items():
                self.board.add_scalar(name, value, step)

    def picture(self, step: int, name: str, picture: Image) -> None:
        """Record a sample."""
        import numpy

        with self._writing():
            self.board.add_image(name, numpy.asarray(picture), step, dataformats="HWC")

    def close(self) -> None:
        with self._writing():
            try:
                self.file.close()
            finally:
                self.board.close()


class Silence:
    """The metrics of a process that writes none: another one of the run does."""

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Record nothing."""

    def picture(self, step: int, name: str, picture: Image) -> None:
        """Record nothing."""

    def rewind(self, step: int) -> None:
        """Nothing was recorded."""

    def close(self) -> None:
        """Nothing is open."""


def _step(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return sys.maxsize  # a half-written last line: drop it


class Bar:
    """Progress of a long job: a bar on a terminal, else a line every few seconds."""

    def __init__(self, what: str, total: int, done: int = 0) -> None:
        self.what, self.total, self.done, self.began_at = what, total, done, done
        self.began = self.said = time.monotonic()
        self.progress: Progress | None = None
        if CONSOLE.is_terminal:
            self.progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None, table_column=Column(ratio=1)),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TextColumn("ETA"),
                TimeRemainingColumn(compact=True),
                console=CONSOLE,
                expand=True,  # the bar takes what the words leave: at 80 columns they all have room
            )
            self.task = self.progress.add_task(what, total=total, completed=done, note="")

    def __enter__(self) -> Self:
        if self.progress:
            self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self.progress:
            self.progress.stop()

    def rate(self) -> float:
        """Items a second since the bar was made."""
        return (self.done - self.began_at) / max(1e-9, time.monotonic() - self.began)

    def back(self, done: int) -> None:
        """Go back to `done`; the rate is still of all that was done."""
        self.began_at -= self.done - done
        self.step(done - self.done)

    def step(self, count: int = 1, note: str = "") -> None:
        """Move on, with a note such as the loss."""
        self.done += count
        if self.progress:
            self.progress.update(self.task, completed=self.done, note=note)
            return
        now = time.monotonic()
        if now - self.said >= PLAIN_EVERY or self.done == self.total:
            self.said = now
            left = (self.total - self.done) / max(1e-9, self.rate())
            info(f"{self.what} {self.done}/{self.total} {note} ETA {clock(left)}".replace("  ", " "))


def fields(values: dict[str, Any]) -> str:
    """`name value` pairs on one line."""
    return " ".join(f"{name} {value}" for name, value in values.items())
