"""What an error prints of many problems."""

from __future__ import annotations

from runtime.errors import SHOWN, InputError, Problem


def test_what_is_said_of_many_files_is_said_of_two_and_the_rest_is_counted() -> None:
    small = [Problem(f"{number}.png", "is too small", "take a larger one") for number in range(1003)]
    other = Problem("a.csv:3", "has 3 fields", "quote it")
    assert InputError([*small, other]).lines() == [
        "error: 0.png: is too small",
        "error: 1.png: is too small      (+ 1,001 like it)",
        "error: a.csv:3: has 3 fields",
        "hint: take a larger one",
        "hint: quote it",
    ]


def test_problems_of_more_kinds_than_are_shown_are_counted() -> None:
    lines = InputError([Problem("spec.py", f"field {number}") for number in range(SHOWN + 3)]).lines()
    assert len(lines) == SHOWN
    assert lines[-1] == f"error: spec.py: field {SHOWN - 1}      (+ 3 more)"
