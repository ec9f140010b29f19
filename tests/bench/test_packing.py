"""The simulation's rules, on jobs small enough to reckon by hand."""

from __future__ import annotations

import pytest

from tests.bench.packing import Kind, cards_needed, waits

HALF = Kind(name="half", peak=50, seconds=100.0, share=1.0)
USABLE = 100


def waited(count: int, busy: float, packed: bool) -> list[float]:
    """The waits of so many jobs that come at once to one card, with ten seconds' start."""
    return waits([0.0] * count, [HALF] * count, 1, USABLE, start=10.0, busy=busy, packed=packed)


def test_jobs_that_fit_together_begin_together_and_alone_each_waits_for_the_one_before() -> None:
    assert waited(3, busy=0.5, packed=True) == [0.0, 0.0, pytest.approx(110.0)]
    assert waited(3, busy=0.5, packed=False) == [0.0, pytest.approx(110.0), pytest.approx(220.0)]


def test_two_jobs_that_each_keep_the_card_busy_take_twice_as_long() -> None:
    assert waited(3, busy=1.0, packed=True)[2] == pytest.approx(210.0)


def test_fewest_cards_on_which_nobody_waits() -> None:
    arrivals, kinds = [0.0] * 8, [HALF] * 8

    found = [cards_needed(arrivals, kinds, USABLE, 10.0, 0.5, 0.0, packed) for packed in (False, True)]

    assert found == [8, 4]
