"""Which checkpoint is chosen, and when a run ends: on losses made by hand."""

from __future__ import annotations

import math
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import choice, plan
from runtime.choice import Candidate, Standing
from runtime.evaluate import Losses, difference

SAMPLES = 6
HISTORIES = st.lists(
    st.lists(st.integers(0, 40).map(float), min_size=SAMPLES, max_size=SAMPLES), min_size=1, max_size=12
)
"""The losses of six samples at each checkpoint."""


def candidates(history: list[list[float]]) -> list[Candidate]:
    return [
        Candidate(step=10 * number, losses=Losses(sums=tuple(sums), weights=(1,) * len(sums)))
        for number, sums in enumerate(history, start=1)
    ]


def standing(history: list[list[float]]) -> Standing:
    found = reduce(choice.follow, candidates(history), None)
    assert found is not None
    return found


def around(mean: float, jitter: float = 0.0) -> list[float]:
    """Six losses of this mean; samples differ much, and what they share does not hide a jitter of each."""
    return [mean + number + math.copysign(jitter, number) for number in (-3, -2, -1, 1, 2, 3)]


@given(HISTORIES)
def test_the_chosen_one_is_within_one_standard_error_of_the_lowest_and_not_after_it(
    history: list[list[float]],
) -> None:
    found = standing(history)
    gap, error = difference(found.chosen.losses, found.lowest.losses)

    assert sum(found.lowest.losses.sums) == min(map(sum, history))
    assert gap <= error
    assert found.chosen.step <= found.lowest.step
    assert found.since == len(history) - found.lowest.step // 10


@given(HISTORIES)
def test_what_is_chosen_later_is_what_was_kept_or_is_new(history: list[list[float]]) -> None:
    """A checkpoint that was neither chosen nor the lowest may be gone."""
    kept: frozenset[int] = frozenset()
    found = None
    for one in candidates(history):
        found = choice.follow(found, one)
        assert found.steps <= kept | {one.step}
        kept = found.steps


def test_the_earliest_that_is_as_good_is_chosen() -> None:
    assert standing([around(5.0), around(3.0), around(2.99, jitter=0.1), around(4.0)]).chosen.step == 20


def test_a_loss_that_falls_beyond_doubt_is_followed_to_its_end() -> None:
    assert standing([around(5.0), around(4.0), around(3.0)]).chosen.step == 30


def test_with_a_single_sample_the_lowest_is_chosen() -> None:
    assert standing([[2.0], [1.0], [1.5]]).chosen.step == 20


@pytest.mark.parametrize(("patience", "is_over"), [(0, False), (1, True), (2, True), (3, False)])
def test_the_run_ends_after_as_many_checkpoints_without_a_lower_loss_as_it_has_patience(
    patience: int, is_over: bool
) -> None:
    history = [around(5.0), around(3.0), around(4.0), around(3.5)]

    assert (
        choice.is_over(plan.Evaluation(choose="best", patience=patience, every=10), standing(history))
        == is_over
    )
