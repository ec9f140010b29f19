"""What PyTorch's CUDA allocator really did, from its own recording, as the requests that our model of it replays.

A recording is `torch.cuda.memory._snapshot()["device_traces"][device]` after `_record_memory_history()`: one entry an
action, in order (the structure is documented at `_snapshot`, torch/cuda/memory.py, PyTorch 2.14). Of an "alloc" `size`
is the bytes asked for, before rounding (`record_trace(ALLOC, …, orig_size, …)`, c10/cuda/CUDACachingAllocator.cpp).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lorac.estimate.allocator import Replay, replay

Entry = Mapping[str, Any]

TAKES, GIVES_BACK = ("segment_alloc", "segment_map"), ("segment_free", "segment_unmap")


def requests(entries: Iterable[Entry]) -> list[tuple[bool, int, int]]:
    """(is it an allocation, name, bytes) for `lorac.estimate.allocator.replay`; every allocation has its own name.

    A block is free again at "free_completed": at "free_requested" another stream may still use it. What was there
    before the recording began is left out.
    """
    found: list[tuple[bool, int, int]] = []
    live: dict[int, tuple[int, int]] = {}
    for entry in entries:
        action = entry["action"]
        if action == "alloc":
            name = len(found)
            live[entry["addr"]] = (name, entry["size"])
            found.append((True, name, entry["size"]))
        elif action == "free_completed" and entry["addr"] in live:
            name, size = live.pop(entry["addr"])
            found.append((False, name, size))
    return found


def peak_reserved(entries: Iterable[Entry]) -> int:
    """The most bytes of segments that were held at once since the recording began."""
    held = most = 0
    for entry in entries:
        if entry["action"] in TAKES:
            held += entry["size"]
        elif entry["action"] in GIVES_BACK:
            held -= entry["size"]
        most = max(most, held)
    return most


def streams(entries: Iterable[Entry]) -> int:
    """How many streams asked for memory: each has pools of its own, and the model knows one."""
    return len({entry["stream"] for entry in entries if entry["action"] == "alloc"})


def replayed(entries: Iterable[Entry]) -> Replay:
    """The recording's requests through our model of the allocator, without a limit."""
    return replay(requests(entries))
