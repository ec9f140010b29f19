"""Several sets in one epoch: as many samples as the weights say, in an order that depends on nothing else."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.data import mixture

weighted = st.lists(st.tuples(st.integers(1, 40), st.floats(0.05, 3.5)), min_size=1, max_size=4)


def visits(sizes: list[int], weights: list[float], seed: int, number: int) -> list[tuple[int, int]]:
    found = mixture.epoch(sizes, weights, seed, number)
    return list(zip(found.sets.tolist(), found.samples.tolist(), strict=True))


@given(weighted, st.integers(0, 2**63), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_each_set_counts_its_size_times_its_weight_and_no_sample_is_favoured(sets, seed, number):
    sizes, weights = [size for size, _ in sets], [weight for _, weight in sets]
    seen = Counter(visits(sizes, weights, seed, number))
    assert seen.total() == mixture.samples_per_epoch(sizes, weights)
    for at, (size, weight) in enumerate(sets):
        times = [seen[at, sample] for sample in range(size)]
        assert sum(times) == mixture.count(size, weight)
        assert abs(sum(times) - size * weight) <= 0.5 or sum(times) == 1
        assert max(times) - min(times) <= 1
    assert {at for at, _ in seen} == set(range(len(sets)))
    assert all(0 <= sample < sizes[at] for at, sample in seen)


@given(weighted, st.integers(0, 2**63), st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_an_epoch_is_the_same_whenever_it_is_asked_for(sets, seed, number):
    sizes, weights = [size for size, _ in sets], [weight for _, weight in sets]
    first = visits(sizes, weights, seed, number)
    mixture.epoch(sizes, weights, seed, number + 1)
    assert visits(sizes, weights, seed, number) == first


def test_epochs_and_seeds_differ_in_order_and_in_what_they_draw():
    first = visits([100, 50], [0.5, 1], 1, 0)
    for other in (visits([100, 50], [0.5, 1], 1, 1), visits([100, 50], [0.5, 1], 2, 0)):
        assert other != first
        assert set(other) != set(first)


def test_over_many_epochs_all_samples_of_a_half_weighted_set_come_alike():
    seen = Counter(sample for number in range(400) for _, sample in visits([10], [0.5], 3, number))
    assert sorted(seen) == list(range(10))
    assert all(abs(times - 200) < 60 for times in seen.values())


def test_sets_are_mixed_and_not_one_after_the_other():
    sets = [at for at, _ in visits([500, 500], [1, 1], 5, 0)]
    assert abs(np.mean(sets[:500]) - 0.5) < 0.1


@pytest.mark.parametrize(
    ("sizes", "weights"), [([0], [1.0]), ([1], [0.0]), ([1], [float("inf")]), ([1], [float("nan")])]
)
def test_sizes_and_weights_that_cannot_be_are_refused(sizes, weights):
    with pytest.raises(ValueError, match="above 0"):
        mixture.epoch(sizes, weights, 0, 0)


def test_the_order_is_pinned_against_drift():
    """A changed order breaks resuming: change it only with the plan's format version."""
    assert visits([3, 4], [1, 0.5], 42, 1) == [(1, 3), (0, 1), (1, 1), (0, 0), (0, 2)]
