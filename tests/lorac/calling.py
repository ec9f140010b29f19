"""`lorac` called in this process as the shell would call it."""

from __future__ import annotations

import contextlib
import io
import sys

import attrs

from lorac.cli import main


@attrs.frozen
class Called:
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


def call(*arguments: str) -> Called:
    """Run `lorac ARGUMENTS` in the current folder."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2)]
    before, sys.argv = sys.argv, ["lorac", *arguments]
    try:
        with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
            main()
    except SystemExit as ended:
        code = ended.code
    finally:
        sys.argv = before
    texts = [stream.buffer.getvalue().decode() for stream in streams]  # type: ignore[attr-defined]
    return Called(code if isinstance(code, int) else 0, *texts)
