"""Numbers as people read them."""

from __future__ import annotations

import pytest

from runtime.human import clock, size


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
