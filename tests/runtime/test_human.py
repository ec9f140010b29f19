"""Numbers as people read them, and lines as wide as their terminal."""

from __future__ import annotations

import fcntl
import io
import os
import select
import struct
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

import pytest

from runtime.ending import ended
from runtime.errors import InputError, Problem
from runtime.human import clock, fitted, size, wrapped


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0s"), (59.4, "59s"), (59.6, "1m00s"), (125, "2m05s"), (4210, "1h10m")]
)
def test_seconds_are_told_in_the_two_largest_units(seconds: float, words: str) -> None:
    assert clock(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 * 2**20, "5.0 MiB"), (2436.67 * 2**20, "2.38 GiB")],
)
def test_bytes_are_told_in_binary_units(count: float, words: str) -> None:
    assert size(count) == words


@pytest.mark.parametrize(
    ("line", "lines"),
    [
        ("error: a picture is gone", ["error: a picture is", "       gone"]),
        ("[INFO] Wrote a file there", ["[INFO] Wrote a file", "       there"]),
        ("peaks   save 1 GiB, train 2", ["peaks   save 1 GiB,", "        train 2"]),
        ("  -> take a larger one, please", ["  -> take a larger", "     one, please"]),
        ("  no label stands before it", ["  no label stands", "    before it"]),
        ("a label of many words:  x y", ["a label of many", "  words:  x y"]),
    ],
)
def test_a_line_is_broken_between_words_below_its_first_ones(line: str, lines: list[str]) -> None:
    assert wrapped(line, 20).splitlines() == lines


def test_what_is_wider_than_the_terminal_stays_whole_to_be_copied() -> None:
    path = "output/a-very-long-name/step-000100.safetensors"
    assert wrapped(f"hint: see {path}, or not", 20).splitlines() == ["hint: see", f"  {path},", "  or not"]


def test_what_has_no_room_beside_its_label_goes_below_it() -> None:
    assert wrapped("  sha256    0123456789abcdef", 20).splitlines() == ["  sha256", "    0123456789abcdef"]


def test_a_line_goes_as_it_is_to_what_is_no_terminal() -> None:
    line = "error: " + "word " * 100 + "end"
    assert fitted(line, io.StringIO()) == line
    read, write = os.pipe()
    with os.fdopen(read), os.fdopen(write, "w") as pipe:
        assert fitted(line, pipe) == line


def test_errors_on_a_terminal_break_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem(
        "data/0001.png", "is not what it was when the plan was made", "plan again: lorac plan SPEC"
    )

    def fail() -> None:
        raise InputError(problem)

    with terminal(40) as (stream, said):
        monkeypatch.setattr("sys.stderr", stream)
        assert ended(fail) == 3
        assert said().splitlines() == [
            "error: data/0001.png: is not what it was",
            "       when the plan was made",
            "hint: plan again: lorac plan SPEC",
        ]


@contextmanager
def terminal(columns: int) -> Iterator[tuple[TextIO, Callable[[], str]]]:
    """A terminal of so many columns: a stream to it, and what was written there so far."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def said() -> str:
        text = b""
        while select.select([master], [], [], 0.2)[0]:
            text += os.read(master, 4096)
        return text.decode()

    with os.fdopen(slave, "w", buffering=1) as stream:
        yield stream, said
    os.close(master)
