"""The model of offloaded blocks."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from lorac import offload

SIZES = st.lists(st.integers(1, 1000), min_size=1, max_size=12)


@given(SIZES, st.data())
def test_at_most_two_neighbours_stay(sizes: list[int], data: st.DataObject) -> None:
    away = data.draw(st.lists(st.sampled_from(range(len(sizes))), unique=True).map(sorted))
    kept = sum(sizes[index] for index in away) - offload.freed(sizes, away)

    assert 0 <= kept <= sum(sorted((sizes[index] for index in away), reverse=True)[:2])


@given(st.integers(1, 100))
def test_every_set_is_spread_over_the_blocks_and_the_last_one_is_all(blocks: int) -> None:
    found = offload.choices(blocks)

    assert found[-1] == tuple(range(blocks))
    for away in found:
        gaps = [after - before for before, after in pairwise(away)]
        assert not gaps or max(gaps) - min(gaps) <= 1


@given(SIZES)
def test_nothing_away_is_nothing_to_wait_for(sizes: list[int]) -> None:
    assert offload.waiting(sizes, [1.0] * len(sizes), (), (), 1.0) == 0.0


def test_only_the_first_block_is_waited_for_where_the_rest_hides_behind_computing() -> None:
    weights, seconds, away = [10, 10, 10, 10], [1.0, 1.0, 1.0, 1.0], (0, 1, 2, 3)

    assert offload.waiting(weights, seconds, away, (), link=10.0) == 1.0
    # At half that link a fetch takes two seconds, and a block's forward or backward hides one of them.
    assert offload.waiting(weights, seconds, away, (), link=5.0) == 2.0 + 3 * 1.0 + 3 * 1.0
    # At a fifth, four seconds are not hidden; the backward of a recomputed block hides one more.
    assert offload.waiting(weights, seconds, away, (), link=2.0) == 5.0 + 3 * 4.0 + 3 * 4.0
    assert offload.waiting(weights, seconds, away, {0, 1, 2, 3}, link=2.0) == 5.0 + 3 * 4.0 + 3 * 3.0
