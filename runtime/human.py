"""Numbers as people read them, and lines as wide as the terminal they are on. The command line uses it too."""

from __future__ import annotations

import os
import re
import textwrap
from typing import TextIO


def clock(seconds: float) -> str:
    """Seconds as people say them: 45s, 2m05s, 1h10m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02}m"


def size(count: float) -> str:
    """Bytes as people say them."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


LABEL = re.compile(r" *(?:\[\w+\] |\w+: |\S+ {2,}|-+>? )")
"""What stands before the words of a line: `error: `, `[INFO] `, a table's first cell, an arrow."""
INDENT = 2


def columns(stream: TextIO) -> int | None:
    """How wide the terminal is that a stream goes to; None where it goes to none, or to one that does not say."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError):  # no terminal; no file at all, or a closed one
        return None


def fitted(text: str, stream: TextIO) -> str:
    """Lines as the stream's terminal has room for them; as they are where it goes to none."""
    return "\n".join(wrapped(line, columns(stream)) for line in text.split("\n"))


def wrapped(line: str, width: int | None) -> str:
    """A line broken between words, the rest below its first words. A path that is wider than all stays whole: what is
    copied from the terminal is all of it."""
    if width is None or len(line) <= width:
        return line
    label = LABEL.match(line)
    indent = label.end() if label else width
    if indent > width // 2 or indent + max(map(len, line[indent:].split()), default=0) > width:
        indent = len(line) - len(line.lstrip(" ")) + INDENT
    lines = textwrap.wrap(
        line,
        width,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines)
