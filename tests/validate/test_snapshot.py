"""PyTorch's recording of its allocator, as documented, becomes the requests that our model replays."""

from __future__ import annotations

from typing import Any

from tests.validate import snapshot

MIB = 2**20


def entry(action: str, addr: int, size: int, stream: int = 0) -> dict[str, Any]:
    """A `TraceEntry` (torch/cuda/memory.py, `_snapshot`)."""
    return {"action": action, "addr": addr, "size": size, "stream": stream, "frames": [], "time_us": 1}


SMALL, LARGE = 0x1000_0000, 0x2000_0000

RECORDED = [
    entry("segment_alloc", SMALL, 2 * MIB),
    entry("alloc", SMALL, 1000),
    entry("segment_alloc", LARGE, 20 * MIB),
    entry("alloc", LARGE, 4 * MIB),
    entry("free_requested", SMALL, 1000),
    entry("free_completed", SMALL, 1000),
    entry("alloc", SMALL, 600),
    entry("alloc", LARGE + 4 * MIB, 5 * MIB),
    entry("free_requested", LARGE, 4 * MIB),
    entry("snapshot", 0, 0),
]


def test_an_allocation_lives_until_its_free_is_completed_and_a_reused_address_is_another_block() -> None:
    assert snapshot.requests(RECORDED) == [
        (True, 0, 1000),
        (True, 1, 4 * MIB),
        (False, 0, 1000),
        (True, 3, 600),
        (True, 4, 5 * MIB),
    ]


def test_what_was_there_before_the_recording_is_left_out() -> None:
    early = [entry("free_requested", SMALL, 512), entry("free_completed", SMALL, 512)]
    assert snapshot.requests([*early, *RECORDED]) == snapshot.requests(RECORDED)


def test_the_reserved_peak_is_that_of_the_segments_given_back_ones_and_mapped_pages_counted() -> None:
    assert snapshot.peak_reserved(RECORDED) == 22 * MIB
    later = [
        entry("segment_free", LARGE, 20 * MIB),
        entry("segment_map", LARGE, 19 * MIB),
        entry("segment_unmap", LARGE, MIB),
        entry("segment_map", LARGE, 2 * MIB),
    ]
    assert snapshot.peak_reserved([*RECORDED, *later]) == 22 * MIB
    assert snapshot.peak_reserved([*RECORDED, *later, entry("segment_map", LARGE, MIB)]) == 23 * MIB


def test_the_replay_of_a_recording_reserves_what_the_recording_did() -> None:
    replay = snapshot.replayed(RECORDED)
    assert replay.peak_reserved == snapshot.peak_reserved(RECORDED)
    assert replay.peak_allocated == 9 * MIB + 1024


def test_streams_that_ask_for_memory_are_counted() -> None:
    assert snapshot.streams(RECORDED) == 1
    assert snapshot.streams([*RECORDED, entry("alloc", 1, 512, stream=7)]) == 2
