"""The allocator's replay against what no allocator may break, and against figures worked out by hand."""

from __future__ import annotations

from itertools import pairwise

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorac.estimate.allocator import MIB, Allocator, Block, OutOfMemory, Settings, replay, segment_size

SIZES = st.one_of(
    st.integers(1, 4096),
    st.integers(1, 3 * MIB),
    st.sampled_from([MIB, MIB + 1, 2 * MIB, 10 * MIB - 1, 10 * MIB, 12 * MIB, 20 * MIB, 33 * MIB]),
)
ACTIONS = st.lists(st.one_of(SIZES, st.integers(-40, -1)), max_size=80)
"""A positive number asks for so many bytes; -n frees the n-th oldest block that is still held."""
CONFIGS = st.sampled_from(
    [
        Settings(),
        Settings(expandable_segments=True),
        Settings(max_split_size=24 * MIB),
        Settings(gc_threshold=0.6),
    ]
)


def requests(actions: list[int]) -> list[tuple[bool, int, int]]:
    held: list[tuple[int, int]] = []
    made: list[tuple[bool, int, int]] = []
    for name, action in enumerate(actions):
        if action > 0:
            held.append((name, action))
            made.append((True, name, action))
        elif held:
            made.append((False, *held.pop(-action % len(held))))
    return made


@settings(deadline=None)
@given(ACTIONS, CONFIGS, st.sampled_from([None, 60 * MIB, 200 * MIB]))
def test_blocks_never_overlap_and_all_bytes_are_accounted_for(
    actions: list[int], config: Settings, limit: int | None
) -> None:
    allocator = Allocator(config, limit)
    held: list[tuple[Block, int]] = []
    for action in actions:
        if action > 0:
            try:
                held.append((allocator.malloc(action), action))
            except OutOfMemory:
                assert limit is not None
                break
        elif held:
            allocator.free(held.pop(-action % len(held))[0])
        spans = sorted((block.address, block.address + block.size) for block, _ in held)
        assert all(left[1] <= right[0] for left, right in pairwise(spans))
        assert all(block.size >= size and not block.free and block.mapped for block, size in held)
        assert allocator.allocated == sum(block.size for block, _ in held) <= allocator.reserved
        assert limit is None or allocator.reserved <= limit
        assert allocator.reserved == _mapped(allocator)


def _mapped(allocator: Allocator) -> int:
    total = 0
    for segment in allocator.segments:
        block: Block | None = segment
        while block is not None:
            total += block.size if block.mapped else 0
            assert block.after is None or block.after.before is block
            assert block.after is None or block.address + block.size == block.after.address
            block = block.after
    return total


@settings(deadline=None)
@given(ACTIONS, st.booleans())
def test_freeing_everything_leaves_each_segment_one_free_block(actions: list[int], expandable: bool) -> None:
    allocator = Allocator(Settings(expandable_segments=expandable))
    held = [allocator.malloc(action) for action in actions if action > 0]
    for block in held:
        allocator.free(block)
    assert allocator.allocated == 0
    assert all(segment.free and segment.whole for segment in allocator.segments)
    assert allocator.reserved == sum(segment.size for segment in allocator.segments)
    before = allocator.reserved
    for size in [segment.size for segment in allocator.segments if not segment.small]:
        allocator.malloc(size)
    assert allocator.reserved == before


@settings(deadline=None)
@given(ACTIONS, CONFIGS)
def test_what_fits_under_a_limit_fits_under_its_own_peak(actions: list[int], config: Settings) -> None:
    free = replay(requests(actions), settings=config)
    assert free.failed_at is None
    assert free.peak_requested <= free.peak_allocated <= free.peak_reserved
    # Collecting garbage below the limit may give back a free block that a later request would have fitted in.
    keeping = attrs.evolve(config, gc_threshold=0.0)
    tight = replay(requests(actions), settings=keeping, limit=free.peak_reserved)
    assert tight.failed_at is None
    assert tight.peak_reserved <= free.peak_reserved


def test_collecting_garbage_may_cost_the_block_that_a_later_request_needs() -> None:
    """Found by hypothesis: the freed 10 MiB block is given back, then 1 MiB + 1 B asks for a segment of 20."""
    actions = [10 * MIB - 1, -1, 1, MIB + 1]
    room = replay(requests(actions)).peak_reserved

    assert replay(requests(actions), limit=room).failed_at is None
    assert replay(requests(actions), settings=Settings(gc_threshold=0.6), limit=room).failed_at == 3


@settings(deadline=None)
@given(ACTIONS, CONFIGS)
def test_a_replay_is_the_same_each_time(actions: list[int], config: Settings) -> None:
    assert replay(requests(actions), settings=config) == replay(requests(actions), settings=config)


@pytest.mark.parametrize(
    ("asked", "segment"),
    [(1, 2), (MIB, 2), (MIB + 512, 20), (10 * MIB - 512, 20), (10 * MIB, 10), (11 * MIB, 12), (21 * MIB, 22)],
)
def test_segments_are_as_large_as_pytorchs(asked: int, segment: int) -> None:
    assert segment_size(asked) == segment * MIB


def test_a_middling_request_leaves_the_rest_of_its_segment_to_the_next() -> None:
    done = replay([(True, 0, 6 * MIB), (True, 1, 8 * MIB), (True, 2, 6 * MIB)])
    assert (done.peak_allocated, done.peak_reserved, done.segments) == (20 * MIB, 20 * MIB, 1)


def test_less_than_a_mebibyte_left_over_is_not_split_off() -> None:
    done = replay([(True, 0, 12 * MIB - 512 * 1024)])
    assert (done.peak_requested, done.peak_allocated, done.peak_reserved) == (
        12 * MIB - 512 * 1024,
        12 * MIB,
        12 * MIB,
    )


def test_a_larger_request_cannot_use_a_freed_smaller_segment() -> None:
    grow = [(True, 0, 30 * MIB), (False, 0, 30 * MIB), (True, 1, 32 * MIB)]
    assert replay(grow).peak_reserved == 62 * MIB
    assert replay(grow, settings=Settings(expandable_segments=True)).peak_reserved == 40 * MIB


def test_at_the_limit_free_segments_are_given_back_before_it_fails() -> None:
    grow = [(True, 0, 30 * MIB), (False, 0, 30 * MIB), (True, 1, 32 * MIB)]
    tight = replay(grow, limit=40 * MIB)
    assert (tight.peak_reserved, tight.retries, tight.failed_at) == (32 * MIB, 1, None)
    assert replay(grow, limit=31 * MIB).failed_at == 2


def test_a_block_over_the_split_limit_is_only_taken_whole() -> None:
    wish = [(True, 0, 40 * MIB), (False, 0, 40 * MIB), (True, 1, 12 * MIB)]
    assert replay(wish).peak_reserved == 40 * MIB
    assert replay(wish, settings=Settings(max_split_size=24 * MIB)).peak_reserved == 52 * MIB
