"""The faults that tests inject for real, and `python -m tests.faults`, which writes them down in docs/faults.md.

`@fault(…)` over a test says what is injected, what happens, and how the command ends. The table is read from the
tests' source: a row is there as long as its test is.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import attrs

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "docs" / "faults.md"

_F = TypeVar("_F", bound=Callable[..., object])

HEAD = """\
# What happens when something goes wrong

Each fault is injected for real by the test named beside it. Written by `just faults` from the tests.
Exit codes: 0 done, 3 data or base, 4 plan, 5 machine, 6 diverged, 130 stopped and can go on; SIGKILL leaves none.

| fault | what happens | exit code | test |
| --- | --- | --- | --- |
"""


def fault(injected: str, happens: str, *, code: int | None) -> Callable[[_F], _F]:
    """Mark a test as the one of a fault. `code` is None where the process ends without one of its own."""
    return lambda test: test


@attrs.frozen(order=True)
class Row:
    """A fault of the table."""

    test: str
    injected: str
    happens: str
    code: int | None

    def __str__(self) -> str:
        code = "none" if self.code is None else self.code
        return f"| {self.injected} | {self.happens} | {code} | `{self.test}` |"


def rows() -> Iterator[Row]:
    """The marked tests, by file and in the order of the file."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                yield from _marks(node, f"{path.relative_to(ROOT).as_posix()}::{node.name}")


def _marks(test: ast.FunctionDef, name: str) -> Iterator[Row]:
    for mark in test.decorator_list:
        if isinstance(mark, ast.Call) and isinstance(mark.func, ast.Name) and mark.func.id == fault.__name__:
            injected, happens = (ast.literal_eval(argument) for argument in mark.args)
            (code,) = (ast.literal_eval(keyword.value) for keyword in mark.keywords)
            yield Row(name, injected, happens, code)


def table() -> str:
    """docs/faults.md."""
    return HEAD + "".join(f"{row}\n" for row in rows())


if __name__ == "__main__":
    TABLE.write_text(table(), encoding="utf-8")
