"""Main memory that a process has freed and still holds.

glibc takes blocks of 128 KiB and more from the system and gives them back when they are freed, but raises that bound,
up to 32 MiB, to the size of each block so freed (mallopt(3), M_MMAP_THRESHOLD, "dynamic mmap threshold"). What lies
below it comes from a heap, whose holes between what lives stay with the process. A bound that is pinned is not raised.
"""

from __future__ import annotations

import ctypes
import sys

import psutil

M_MMAP_THRESHOLD = -3
"""glibc's malloc.h."""
BOUND = 2**20
HELD = 1.5
"""What a process may take, as a share of its plan's main memory, where the bound is not pinned. Measured on the
language demo: 1.2 in two steps of one thread, 1.4 in its forty of two (docs/LOG.md)."""


def keep_to(planned: int) -> bool:
    """Where less than `HELD` times `planned` bytes is free, have what is freed go back at once; whether that was done.

    A step takes a fifth more CPU time then, so it is left where memory is plenty.
    """
    if psutil.virtual_memory().available >= HELD * planned:
        return False
    return give_back_at_once()


def give_back() -> None:
    """Have what is freed by now go back: whole pages in the heap's holes too (malloc_trim(3), glibc 2.8). Some ms."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)  # type: ignore[union-attr]


def give_back_at_once() -> bool:
    """Pin the bound at `BOUND` for this process; False where malloc is not glibc's."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return hasattr(libc, "mallopt") and libc.mallopt(M_MMAP_THRESHOLD, BOUND) == 1  # type: ignore[union-attr]
