"""Start the runtime as its own process: its signals, input, output and exit code are the command's."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from runtime.errors import Problem, SpecError

PLAN = "plan.json"
STDERR = 2
"""The file descriptor: whatever stands for sys.stderr here, another process needs a real one."""
LOOK = 0.5
"""Seconds between two looks at a run that may be stopped before its end."""


def newest(generated: Path) -> Path:
    """The plan that `lorac plan` wrote last to generated/NAME. Raises SpecError where there is none."""
    plans = sorted(generated.glob(f"*/{PLAN}"), key=lambda path: (path.stat().st_mtime_ns, path.as_posix()))
    if not plans:
        raise SpecError(Problem(f"{generated}", "holds no plan", "make one: lorac plan SPEC"))
    return plans[-1]


def is_plan(path: Path) -> bool:
    """Whether an argument means a plan and not a spec: a .json file, or a folder."""
    return path.is_dir() or path.suffix == ".json"


def plan_in(path: Path) -> Path:
    """The plan in a folder, or the file itself."""
    return path / PLAN if path.is_dir() else path


def command(what: Path, options: Sequence[str], module: str = "runtime") -> list[str]:
    """What starts the runtime. `-P`: a folder called runtime/ in the user's own project is not ours."""
    return [sys.executable, "-P", "-m", module, str(what), *options]


def run(plans: Sequence[Path], options: Sequence[str]) -> int:
    """Run plans one after the other; the exit code of the first that fails, or 0. May not return, as `_become`."""
    for plan in plans[:-1]:
        code = _waited_for(command(plan, options))
        if code:
            return code
    return _become(command(plans[-1], options))


def complete(
    what: Path,
    module: str = "runtime",
    options: Sequence[str] = (),
    is_enough: Callable[[], bool] | None = None,
) -> int:
    """Run one of the runtime's programs to its end, what it says on stderr, and come back; its exit code.

    Once `is_enough`, it is stopped in order, as by Ctrl-C.
    """
    return _waited_for(command(what, options, module), STDERR, is_enough)


def end_of(process: subprocess.Popen[bytes], is_enough: Callable[[], bool] | None = None) -> int:
    """Wait for a process's end, which `is_enough` may bring about by a SIGTERM; its exit code, as a shell has it."""
    while is_enough is not None and process.poll() is None:
        if is_enough():
            process.terminate()
            break
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(LOOK)
    code = process.wait()
    return code if code >= 0 else 128 - code


def start(module: str, what: Path, options: Sequence[str]) -> int:
    """Start another of the runtime's programs on a run; the exit code. May not return, as `_become`."""
    return _become(command(what, options, module))


def _become(arguments: list[str]) -> int:
    """Give this process's place to another where the system can do that, which does not return; else its exit code."""
    if os.name == "posix":
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(arguments[0], arguments)
    return _waited_for(arguments)


def _waited_for(
    arguments: list[str], stdout: int | None = None, is_enough: Callable[[], bool] | None = None
) -> int:
    """Run to the end. Ctrl-C reaches the process by the terminal; a SIGTERM for this one is handed on."""
    sys.stdout.flush()
    sys.stderr.flush()
    process = subprocess.Popen(arguments, stdout=stdout)
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, lambda *_: None),
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: process.terminate()),
    }
    try:
        return end_of(process, is_enough)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
