"""Lives of a run that can be cut short: processes that are really killed, each forked from one that only imported.

A start of Python, torch, diffusers and transformers costs seconds, which is most of a tiny run. Here the standard
library's fork server pays it once: it imports what a run needs, runs nothing, and is forked for every life. So a life
begins with the modules of a fresh start and no other state, and SIGKILL ends it as it ends any process.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import attrs

SAID = "said.txt"
"""In a life's folder: what all lives there printed."""

TOUCHING = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}
"""Python's audit events (PEP 578) of what touches a folder."""

COUNTED = "saves.txt"
"""In a life's folder: a byte for each operation in its checkpoints."""


@attrs.frozen
class Ended:
    """How a life ended: its exit code, or minus the signal's number."""

    code: int


class Lives:
    """Runs the runtime on a plan, in processes of a warm fork server."""

    def __init__(self) -> None:
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["tests.warm"])

    def live(
        self,
        plan: Path,
        folder: Path,
        *,
        seconds: float | None = None,
        operation: int | None = None,
        prepare: Callable[[], None] | None = None,
    ) -> Ended:
        """Carry a plan out in `folder`; killed after `seconds`, or at its n-th operation in its checkpoints."""
        folder.mkdir(parents=True, exist_ok=True)
        process = self.context.Process(target=_life, args=(plan, folder, operation, prepare))
        process.start()
        process.join(seconds)
        if process.is_alive():
            process.kill()
            process.join()
        assert process.exitcode is not None
        return Ended(process.exitcode)


def _life(plan: Path, folder: Path, operation: int | None, prepare: Callable[[], None] | None) -> None:
    """In the new process."""
    os.chdir(folder)
    said = os.open(SAID, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.environ["LORAC_CACHE"] = str(folder.parent / "cache")
    watch_saves(operation)
    if prepare is not None:
        prepare()
    from runtime.__main__ import main

    sys.exit(main([str(plan), "--output", "out", "--log", "logs"]))


def watch_saves(operation: int | None) -> None:
    """Count operations in a folder of checkpoints, and end the process by SIGKILL at the n-th."""
    counted = os.open(COUNTED, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    done = 0

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal done
        if event in TOUCHING and any("checkpoints" in os.fsdecode(one) for one in map(_path, arguments)):
            done += 1
            os.write(counted, b".")
            if done == operation:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


def _path(argument: object) -> str | bytes:
    return os.fspath(argument) if isinstance(argument, str | bytes | os.PathLike) else ""
