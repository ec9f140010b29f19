"""Run a person's spec file and take the experiments it binds.

- The file is their own program and runs in this process: its folder is not put on the import path, so that a
  `random.py` beside it shadows nothing; it is a module for as long as it runs, which dataclasses need.
- What it prints goes to stderr with file and line, so that `--json` stays clean. What it raises, `sys.exit`
  and a file that never ends (60 s; Windows has no such timer) end in an error with file and line.
- Problems of all its parts are collected and raised together, in the order of the lines.
"""

from __future__ import annotations

import contextlib
import difflib
import io
import linecache
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import decode_source
from pathlib import Path
from types import CodeType, FunctionType, ModuleType, TracebackType
from typing import TextIO

import attrs

from lorac.origin import line_in
from lorac.parts import Found, collecting, in_order
from lorac.spec import Experiment
from runtime.errors import LoracError, Problem, SpecError

LIMIT_SECONDS = 60.0
"""How long a spec may run."""
AGAIN_SECONDS = 1.0
"""How often it is told that its time is up, in case a bare `except:` swallowed it once."""
NAMED = 5
"""How many things that are no experiment an error names."""
BIND = "bind one at the top level: experiment = Experiment(…)"
CONFIGS = (".yaml", ".yml", ".toml", ".json", ".safetensors")
"""How files end that `lorac import` reads and that are no Python."""


@attrs.frozen
class Loaded:
    """An experiment, the spec file it came from, and the line where it was made (0 where not known)."""

    experiment: Experiment
    path: Path
    line: int


def load(path: Path | str, limit: float = LIMIT_SECONDS) -> list[Loaded]:
    """The experiments that a spec file binds at its top level, alone or in a list: several are a sweep.

    Raises SpecError with every problem of the file; a LoracError that the file's own calls raise passes.
    """
    file = str(path)
    code = _compiled(Path(path), file)
    module = ModuleType(f"lorac_spec:{Path(path).stem}")
    module.__file__ = file
    with collecting() as found:
        stopped = _run(code, module, file, limit)
    problems = [one.problem() for one in in_order(found)]
    if stopped:
        problems.append(stopped)
    if problems:
        raise SpecError(problems)
    experiments = list(_experiments(vars(module).values()))
    if not experiments:
        raise SpecError(
            Problem(file, f"binds no Experiment at its top level; found {_contents(module)}", BIND)
        )
    loaded = [Loaded(one, Path(path), _made_at(one)) for one in experiments]
    _refuse_same_names(loaded)
    return loaded


def of_name(loaded: list[Loaded], name: str) -> Loaded:
    """The one experiment of a spec, or of several the one of that name. Raises SpecError."""
    found = [one for one in loaded if len(loaded) == 1 or one.experiment.name == name]
    if not found:
        names = ", ".join(one.experiment.name for one in loaded)
        raise SpecError(Problem(f"{loaded[0].path}", f"binds {names}, and none is called {name}"))
    return found[0]


def the_only(loaded: list[Loaded]) -> Loaded:
    """The one experiment of a spec. Raises SpecError for a sweep."""
    if len(loaded) > 1:
        what = f"binds {len(loaded)} experiments, and one is wanted"
        raise SpecError(Problem(f"{loaded[0].path}", what, "lorac sweep runs several"))
    return loaded[0]


def _compiled(path: Path, file: str) -> CodeType:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise SpecError(Problem(file, f"cannot be read: {error.strerror}", _nearby(path))) from None
    if path.suffix.lower() in CONFIGS:
        hint = f"another trainer's config, or a finished LoRA, becomes one: lorac import {file}"
        raise SpecError(Problem(file, "is no spec: a spec is a Python file", hint))
    try:
        code = compile(raw, file, "exec", dont_inherit=True)
        lines = decode_source(raw).splitlines(keepends=True)
    except SyntaxError as error:
        what, line = f"is not valid Python: {error.msg}", error.lineno
        hint = "mend the line, or the one before it" if line else "give the path of a spec"
        raise SpecError(Problem(f"{file}:{line}" if line else file, what, hint)) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise SpecError(Problem(file, f"is not valid Python: {error}", "give the path of a spec")) from None
    # Lines are counted in what was compiled, even if the file is edited meanwhile: an entry without a time is
    # never checked against the disk.
    linecache.cache[file] = (len(raw), None, lines, file)
    return code


def _nearby(path: Path) -> str:
    """What to give instead of a file that cannot be read."""
    inside = sorted(str(one) for one in path.glob("*.py"))[:NAMED]
    if inside:
        return f"give a file of it: {', '.join(inside)}"
    names = [one.name for one in path.absolute().parent.glob("*.py")]
    near = difflib.get_close_matches(path.name, names, n=1)
    return f"did you mean {path.with_name(near[0])}?" if near else "give the path of a spec"


def _run(code: CodeType, module: ModuleType, file: str, limit: float) -> Problem | None:
    """Run the file in its module. Returns what stopped it before its end."""
    told = _Told(file, sys.stderr)
    sys.modules[module.__name__] = module
    try:
        with (
            contextlib.chdir("."),
            contextlib.redirect_stdout(told),
            contextlib.redirect_stderr(told),
            _limited(limit),
        ):
            exec(code, vars(module))  # noqa: S102  # running the spec is what the person asked for
    except LoracError:
        raise
    except SystemExit as error:
        what = f"called sys.exit({'' if error.code is None else repr(error.code)})"
        return _stopped(error, file, what, "a spec binds its experiment and ends by itself")
    except _TooLongError as error:
        return _stopped(
            error, file, f"was still running after {limit:g} s", "a spec only describes: end the loop"
        )
    except ModuleNotFoundError as error:
        hint = "a spec sees installed packages, not the files beside it: write it in one file"
        return _stopped(error, file, f"raised {_said(error)}", hint)
    except Exception as error:
        return _stopped(error, file, f"raised {_said(error)}", "mend that line of the spec")
    finally:
        told.end()
        sys.modules.pop(module.__name__, None)
    return None


def _stopped(error: BaseException, file: str, what: str, hint: str) -> Problem:
    line = _last_line(error.__traceback__, file)
    return Problem(f"{file}:{line}" if line else file, what, hint)


def _last_line(traceback: TracebackType | None, file: str) -> int:
    """The line of the innermost frame of that file."""
    line = 0
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == file:
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line


def _said(error: Exception) -> str:
    """An exception as Python's last line has it."""
    try:
        lines = str(error).strip().splitlines()
    except Exception:  # a message that cannot be made must not hide where it was raised
        lines = []
    return f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__


# -------------------------------------------------------------------------------- time and output


class _TooLongError(BaseException):
    """The time is up. No Exception, so that a spec's own `except Exception` does not swallow it."""


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise _TooLongError in here after that time, and again; in the main thread, not on Windows."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: object) -> None:
        raise _TooLongError

    handler = signal.signal(signal.SIGALRM, ring)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds, min(seconds, AGAIN_SECONDS))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, *timer)


class _Told(io.TextIOBase):
    """What a spec prints, line by line on another stream, each with the file and line that printed it."""

    def __init__(self, file: str, sink: TextIO) -> None:
        self._file, self._sink = file, sink
        self._line, self._pending = 0, ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._line = line_in(self._file) or self._line
        *whole, self._pending = (self._pending + text).split("\n")
        for line in whole:
            self._sink.write(f"{self._file}:{self._line}: {line}\n")
        return len(text)

    def end(self) -> None:
        """Write what has no end of line yet."""
        if self._pending:
            self.write("\n")
        self._sink.flush()


# -------------------------------------------------------------------------------- experiments


def _experiments(values: Iterable[object]) -> Iterator[Experiment]:
    """The experiments among values, and in lists, tuples and mappings of them; each once."""
    seen: set[int] = set()
    for value in values:
        many: Iterable[object] = [value]
        if isinstance(value, list | tuple):
            many = value
        elif isinstance(value, Mapping):
            many = value.values()
        for one in many:
            if isinstance(one, Experiment) and id(one) not in seen:
                seen.add(id(one))
                yield one


def _contents(module: ModuleType) -> str:
    """What a module binds, for people: "LoRA `adapter`, function `make`"."""
    own = {name: value for name, value in vars(module).items() if not name.startswith("__")}
    kinds = [f"{_kind(value)} `{name}`" for name, value in own.items() if not _imported(value, module)]
    more = f" and {len(kinds) - NAMED} more" if len(kinds) > NAMED else ""
    return (", ".join(kinds[:NAMED]) or "nothing") + more


def _imported(value: object, module: ModuleType) -> bool:
    return isinstance(value, ModuleType) or (
        isinstance(value, type | FunctionType) and value.__module__ != module.__name__
    )


def _kind(value: object) -> str:
    return "class" if isinstance(value, type) else type(value).__name__


def _made_at(experiment: Experiment) -> int:
    return Found("", "", experiment._origin).line  # type: ignore[attr-defined]  # every part has one


def _refuse_same_names(loaded: list[Loaded]) -> None:
    """Names are folders' names, and some file systems take `A` for `a`."""
    first: dict[str, Loaded] = {}
    problems = []
    for one in loaded:
        before = first.setdefault(one.experiment.name.casefold(), one)
        if before is not one:
            taken = f"line {before.line} has {before.experiment.name!r}"
            what = f"name {one.experiment.name!r} is used twice: {taken}"
            where = f"{one.path}:{one.line}"
            problems.append(Problem(where, what, "give each experiment of a sweep its own name"))
    if problems:
        raise SpecError(problems)
