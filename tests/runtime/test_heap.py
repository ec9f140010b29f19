"""What a process holds of the main memory that it has freed."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from runtime import heap, train

MIB = 2**20
GLIBC = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc",
    reason="what is asked for is glibc's: elsewhere runtime.heap leaves all as it is",
)

FREED = """
import ctypes, sys, psutil
from runtime import heap
if sys.argv[1] == "pinned":
    assert heap.give_back_at_once()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
def made(size):
    block = libc.malloc(size)
    ctypes.memset(block, 1, size)
    return block
libc.free(made(20 * 2**20))  # where the bound is not pinned, it is at 20 MiB from here on
before = psutil.Process().memory_info().rss
blocks = [made(8 * 2**20) for _ in range(10)]
last = made(2**16)
for block in blocks:
    libc.free(block)
print(psutil.Process().memory_info().rss - before)
"""


@GLIBC
def test_what_is_freed_is_held_unless_the_bound_is_pinned() -> None:
    held = {how: _printed(FREED, how) for how in ("left", "pinned")}
    assert held["pinned"] < 8 * MIB < 80 * MIB <= held["left"]


def _printed(program: str, *arguments: str) -> int:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", program, *arguments]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, cwd=root).stdout)


@pytest.mark.parametrize(("device", "given_back"), [("cpu", [2, 4, 5]), ("cuda", [])])
def test_holes_are_given_back_before_each_micro_batch_that_is_the_largest_yet(
    monkeypatch: pytest.MonkeyPatch, device: str, given_back: list[int]
) -> None:
    compute = SimpleNamespace(device=device)
    run: Any = SimpleNamespace(plan=SimpleNamespace(program=SimpleNamespace(compute=compute)), largest=0)
    lengths, given = [2, 2, 4, 3, 5, 4], []
    for length in lengths:
        monkeypatch.setattr(heap, "give_back", lambda length=length: given.append(length))
        train.make_room(run, {"input_ids": torch.zeros(2, length), "mask": torch.zeros(2, length)})
    assert given == given_back


def test_the_bound_is_pinned_only_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "give_back_at_once", lambda: True)
    free = heap.psutil.virtual_memory().available
    assert not heap.keep_to(free // 100)
    assert heap.keep_to(free * 2)


HOLES = """
import ctypes, psutil
from runtime import heap
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
def made(size):
    block = libc.malloc(size)
    ctypes.memset(block, 1, size)
    return block
libc.free(made(20 * 2**20))  # blocks of less are in the heap from here on
blocks, kept = zip(*[(made(8 * 2**20), made(2**16)) for _ in range(10)])
for block in blocks:
    libc.free(block)
held = psutil.Process().memory_info().rss
heap.give_back()
print(held - psutil.Process().memory_info().rss)
"""


@GLIBC
def test_holes_between_what_lives_are_given_back() -> None:
    assert _printed(HOLES) > 70 * MIB
