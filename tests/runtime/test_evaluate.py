"""The loss of what is held out: its mean, and an interval that means something."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.evaluate import Losses, difference, interval

SAMPLES = st.lists(st.tuples(st.floats(0, 12), st.integers(1, 500)), min_size=8, max_size=60)
"""Each sample's mean loss a token, and its tokens."""


@given(SAMPLES)
def test_the_interval_lies_within_the_samples_and_the_mean_is_over_tokens(
    samples: list[tuple[float, int]],
) -> None:
    sums, weights = [mean * tokens for mean, tokens in samples], [tokens for _, tokens in samples]
    found = interval(sums, weights)
    means = [mean for mean, _ in samples]

    assert found.loss == pytest.approx(sum(sums) / sum(weights))
    assert min(means) - 1e-9 <= found.low <= found.high <= max(means) + 1e-9
    assert (found.samples, found.weight) == (len(samples), sum(weights))


@given(st.lists(st.floats(0, 12), min_size=8, max_size=60), st.integers(1, 500))
def test_the_interval_holds_the_mean(means: list[float], tokens: int) -> None:
    found = interval([mean * tokens for mean in means], [tokens] * len(means))

    assert found.low - 1e-9 <= found.loss <= found.high + 1e-9


def test_samples_that_agree_leave_no_doubt_and_more_of_them_leave_less() -> None:
    alike = interval([20.0] * 10, [10] * 10)
    few, many = (interval([10.0, 30.0] * count, [10, 10] * count) for count in (5, 50))

    assert (alike.low, alike.loss, alike.high) == (2.0, 2.0, 2.0)
    assert many.high - many.low < (few.high - few.low) / 2


def test_the_same_losses_give_the_same_interval() -> None:
    sums, weights = [3.0, 5.0, 8.0, 2.0], [2, 3, 4, 5]

    assert interval(sums, weights) == interval(sums, weights)


def test_perplexity_is_e_to_the_loss() -> None:
    assert interval([math.log(8) * 3], [3]).perplexity == pytest.approx(8)


@given(st.lists(st.floats(0, 12), min_size=2, max_size=40), st.floats(-3, 3))
def test_what_all_samples_share_is_told_apart_without_doubt(means: list[float], shift: float) -> None:
    weights = tuple(range(1, len(means) + 1))
    lower = Losses(
        sums=tuple(mean * weight for mean, weight in zip(means, weights, strict=True)), weights=weights
    )
    higher = Losses(
        sums=tuple(total + shift * weight for total, weight in zip(lower.sums, weights, strict=True)),
        weights=weights,
    )

    assert difference(higher, lower) == pytest.approx((shift, 0), abs=1e-9)
    assert difference(lower, lower) == (0, 0)


def test_the_error_of_a_difference_is_the_standard_error_of_the_mean_where_samples_weigh_the_same() -> None:
    gaps = [1.0, 2.0, 4.0, 9.0]
    zero = Losses(sums=(0.0,) * 4, weights=(1,) * 4)

    mean, error = difference(Losses(sums=tuple(gaps), weights=(1,) * 4), zero)

    assert mean == 4.0
    assert error == pytest.approx(statistics.stdev(gaps) / 2)
