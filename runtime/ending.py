"""How a process of ours ends: the one place that turns what was raised into stderr lines and an exit code."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Callable

from runtime.errors import Interrupted, LoracError, visible
from runtime.human import fitted

BUG = 1
INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""
CLOSED = 141
"""128 + SIGPIPE: whoever read our output went away, as `head` does."""


def ended(work: Callable[[], int | None], is_debugging: Callable[[], bool] = lambda: False) -> int:
    """Do the work; its exit code. An error becomes `error: …` and `hint: …`, never a traceback.

    A bug's traceback goes to a file that is named; with `is_debugging` each traceback is shown.
    """
    try:
        code = work()
        sys.stdout.flush()
        return code or 0
    except LoracError as error:
        if is_debugging() and not isinstance(error, Interrupted):
            traceback.print_exc()
        _say(*error.lines())
        return error.exit_code
    except KeyboardInterrupt:
        if is_debugging():
            traceback.print_exc()
        _say("error: interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout once more at exit, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED
    except Exception as error:  # whatever is no LoracError is a bug of ours
        if is_debugging():
            traceback.print_exc()
        said = visible(traceback.format_exception_only(error)[-1].strip())
        _say(f"error: this is a bug in lorac: {said}", f"hint: please report it with {_kept()}")
        return BUG


def _say(*lines: str) -> None:
    for line in lines:
        print(fitted(line, sys.stderr), file=sys.stderr)


def _kept() -> str:
    """A new file with the traceback of what is being handled; words to that effect if none can be made."""
    try:
        descriptor, path = tempfile.mkstemp(prefix="lorac-bug-", suffix=".txt")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{' '.join(sys.argv)}\nPython {sys.version}\n\n{traceback.format_exc()}")
    except OSError:
        return "what --debug shows"
    return path
