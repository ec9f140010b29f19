"""Where in a person's file a part of a spec was written, down to the line of one keyword.

- A part remembers the call that built it as file and position; its source is parsed when a line is asked for.
- Python 3.11 keeps every instruction's columns (PEP 657); without them (`-X no_debug_ranges`) the call's line
  stands.
"""

from __future__ import annotations

import ast
import linecache
import sys
from functools import lru_cache
from itertools import islice
from types import FrameType

import attrs

OURS = ("lorac.origin", "lorac.parts", "lorac.spec", "lorac.rules", "attr", "attrs", "copy", "functools")
"""Modules whose frames lie between the person's call and the part it builds."""


@attrs.frozen
class Origin:
    """One call in a source file: its first line, and where it ends (line, UTF-8 column; 0 where not known).

    `within` narrows it to one keyword of the call, for a part that a plain value stands for.
    """

    file: str
    line: int
    end_line: int = 0
    end_column: int = 0
    within: str | None = None

    def line_of(self, *names: str | int, element: int | None = None) -> int:
        """The line of an argument of the call, or of one element of a tuple written there.

        `names` are the ways to write it: a keyword, or a place among the unnamed arguments.
        """
        call = self.call()
        argument = _argument(call, (self.within,) if self.within else names) if call else None
        if argument is None:
            return self.line
        line, node = argument
        if element is not None and isinstance(node, ast.Tuple | ast.List) and element < len(node.elts):
            return node.elts[element].lineno
        return line

    def call(self) -> ast.Call | None:
        """The call in its source; None where that is not known."""
        if not self.end_line:
            return None
        end = (self.end_line, self.end_column)
        return _calls("".join(linecache.getlines(self.file))).get(end)


def _argument(call: ast.Call, names: tuple[str | int, ...]) -> tuple[int, ast.expr] | None:
    """Line and value of one argument; an unpacked `**mapping` stands for keywords not written out."""
    for name in names:
        if isinstance(name, int) and name < len(call.args):
            return call.args[name].lineno, call.args[name]
        for keyword in call.keywords:
            if keyword.arg == name:
                return keyword.lineno, keyword.value
    if not names:
        return None
    return next(((k.lineno, k.value) for k in call.keywords if k.arg is None), None)


@lru_cache(maxsize=8)
def _calls(source: str) -> dict[tuple[int | None, int | None], ast.Call]:
    """Every call of a source by where it ends: no two calls end with the same bracket."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return {}
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {(call.end_lineno, call.end_col_offset): call for call in calls}


def caller() -> Origin | None:
    """The call being made in the innermost frame that is not ours."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _module(frame) in OURS:
        frame = frame.f_back
    if frame is None or frame.f_code.co_filename.startswith(
        "<frozen "
    ):  # a default, made while lorac is imported
        return None
    positions = next(islice(frame.f_code.co_positions(), frame.f_lasti // 2, None), (None,) * 4)
    line, end_line, _, end_column = positions
    return Origin(
        file=frame.f_code.co_filename,
        line=line or frame.f_lineno,
        end_line=end_line if end_line and end_column is not None else 0,
        end_column=end_column or 0,
    )


def _module(frame: FrameType) -> str:
    name = str(frame.f_globals.get("__name__", ""))
    return "attr" if name.startswith(("attr.", "attrs.")) else name


def line_in(file: str) -> int:
    """The line being run in the innermost frame of that file; 0 if there is none."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename != file:
        frame = frame.f_back
    return frame.f_lineno if frame is not None else 0
