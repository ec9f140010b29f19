"""What a process holds of the main memory that it has freed."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from runtime import heap

MIB = 2**20

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


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc",
    reason="the bound is glibc's: elsewhere runtime.heap leaves all as it is",
)
def test_what_is_freed_is_held_unless_the_bound_is_pinned() -> None:
    held = {how: _held(how) for how in ("left", "pinned")}
    assert held["pinned"] < 8 * MIB < 80 * MIB <= held["left"]


def _held(how: str) -> int:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", FREED, how]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, cwd=root).stdout)


def test_the_bound_is_pinned_only_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "give_back_at_once", lambda: True)
    free = heap.psutil.virtual_memory().available
    assert not heap.keep_to(free // 100)
    assert heap.keep_to(free * 2)
