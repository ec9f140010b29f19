"""What will be wanted later, made meanwhile by a copy of this process on another core.

A copy costs centiseconds, as everything imported is there already. It leaves what it made in files; whoever wants it
and finds none makes it, so that a copy may fail, or be none, and nothing but time changes.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch

PATIENCE = 2.0
"""Seconds that are waited for a copy at most, beside as many as the work beside it took: one that hangs is ended."""
PAUSE = 0.005
"""Seconds between two looks at a copy."""


@contextmanager
def made_ahead(make: Callable[[], object]) -> Iterator[None]:
    """`make` is called in a copy of this process while the body runs; ends when both are done.

    `make` may compute no gradients: torch refuses them in a copy. Where no copy can be had it isn't called: elsewhere
    than on Linux, on one core, beside other threads (which may hold locks that a copy would wait for), with CUDA in
    use. A body that raises ends the copy, too.
    """
    if not _copies():
        yield
        return
    began, copy = time.monotonic(), os.fork()
    if copy == 0:
        _make_and_leave(make)
    patience = 0.0
    try:
        yield
        patience = time.monotonic() - began + PATIENCE
    finally:
        _await(copy, patience)


def _copies() -> bool:
    return (
        sys.platform == "linux"
        and len(os.sched_getaffinity(0)) > 1
        and threading.active_count() == 1
        and not torch.cuda.is_initialized()
    )


def _make_and_leave(make: Callable[[], object]) -> None:
    """The copy's whole life: nothing of the process that it is a copy of may run at its end, nor be said by it."""
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        make()
        status = 0
    finally:
        os._exit(status)


def _await(copy: int, seconds: float) -> None:
    """Until it has ended; it is ended after so many seconds."""
    until = time.monotonic() + seconds
    while os.waitpid(copy, os.WNOHANG)[0] == 0:
        if time.monotonic() > until:
            with suppress(ProcessLookupError):
                os.kill(copy, signal.SIGKILL)
            os.waitpid(copy, 0)
            return
        time.sleep(PAUSE)
