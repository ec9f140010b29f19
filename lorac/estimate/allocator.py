"""PyTorch's CUDA caching allocator, replayed over a recording: what a run reserves on the card, and how.

After `DeviceCachingAllocator` (c10/cuda/CUDACachingAllocator.cpp and c10/core/AllocatorConfig.h, PyTorch
2.13), for one stream:
- a request is rounded to 512 B and served by the smallest free block that holds it, the lowest address first;
- up to 1 MiB come from segments of 2 MiB, up to 10 MiB from segments of 20 MiB, more from a segment of their
  own, rounded to 2 MiB;
- a block is split when enough is left over, and a freed one joins its free neighbours;
- what is freed stays reserved; at the limit, free segments go back to the card and the request is tried
  again.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable

import attrs

MIB = 2**20
MIN_BLOCK = 512  # kMinBlockSize
SMALL_SIZE = MIB  # kSmallSize: the largest "small" request
SMALL_BUFFER = 2 * MIB  # kSmallBuffer: a small segment, and an expandable segment's small page
LARGE_BUFFER = 20 * MIB  # kLargeBuffer: a segment for middling requests, and a large page
MIN_LARGE_ALLOC = 10 * MIB  # kMinLargeAlloc: from here a request gets a segment of its own
ROUND_LARGE = 2 * MIB  # kRoundLarge
NON_SPLIT_ROUNDING = LARGE_BUFFER  # max_non_split_rounding_size's default


@attrs.frozen
class Settings:
    """`PYTORCH_CUDA_ALLOC_CONF`, with its defaults. Sizes in bytes; `gc_threshold` as a share of the
    limit."""

    expandable_segments: bool = False
    max_split_size: int | None = None
    gc_threshold: float = 0.0


@attrs.frozen
class Replay:
    """Bytes at their peaks: asked for, handed out (with what rounding wastes), and taken from the card.

    `reserved_at` and `allocated_at` are the numbers of the requests at which the peaks were reached;
    `failed_at` that of the request that did not fit under the limit, None if all did. `retries` counts how
    often segments had to be given back to make room (each is a stall on a real card).
    """

    peak_requested: int
    peak_allocated: int
    peak_reserved: int
    allocated_at: int
    reserved_at: int
    segments: int
    retries: int
    failed_at: int | None

    @property
    def fragmentation(self) -> float:
        """The share of the reserved peak that the allocated peak does not fill."""
        return 1 - self.peak_allocated / self.peak_reserved if self.peak_reserved else 0.0


@attrs.define(eq=False)
class Block:
    """A piece of a segment; neighbours are linked. `mapped` is False for an expandable segment's bare
    addresses."""

    address: int
    size: int
    small: bool
    free: bool = True
    mapped: bool = True
    age: int = 0
    before: Block | None = None
    after: Block | None = None

    @property
    def entry(self) -> tuple[int, int, Block]:
        """Its place among free blocks: by size, then by address; no two have the same."""
        return self.size, self.address, self

    @property
    def whole(self) -> bool:
        return self.before is None and self.after is None


def rounded(size: int) -> int:
    """A request's size as the allocator serves it (`round_size`)."""
    return max(MIN_BLOCK, -(-size // MIN_BLOCK) * MIN_BLOCK)


def segment_size(size: int) -> int:
    """Bytes of the segment taken for a rounded request (`get_allocation_size`)."""
    if size <= SMALL_SIZE:
        return SMALL_BUFFER
    if size < MIN_LARGE_ALLOC:
        return LARGE_BUFFER
    return -(-size // ROUND_LARGE) * ROUND_LARGE


class OutOfMemory(Exception):
    """No room under the limit, even after giving back every free segment."""


class Allocator:
    """`malloc` and `free` on a card that gives at most `limit` bytes (None: no end)."""

    def __init__(self, settings: Settings | None = None, limit: int | None = None) -> None:
        self.settings = settings or Settings()
        self.limit = limit
        self.allocated = 0
        self.reserved = 0
        self.retries = 0
        self.segments: set[Block] = set()
        self._free: dict[bool, list[tuple[int, int, Block]]] = {True: [], False: []}
        self._tail: dict[bool, Block] = {}
        self._next = 0
        self._clock = 0

    def malloc(self, size: int) -> Block:
        """A block of at least `size` bytes. Raises OutOfMemory."""
        size = rounded(size)
        small = size <= SMALL_SIZE
        self._clock += 1
        block = self._best(size, small) or self._new(size, small)
        self._take_out(block)
        if self._should_split(block, size):
            rest = Block(block.address + size, block.size - size, small, before=block, after=block.after)
            if block.after is not None:
                block.after.before = rest
            block.after, block.size = rest, size
            if self._tail.get(small) is block:
                self._tail[small] = rest
            self._put_in(rest)
        block.free = False
        self.allocated += block.size
        return block

    def free(self, block: Block) -> None:
        self.allocated -= block.size
        block.free = True
        for other in (block.before, block.after):
            if other is not None and other.free and other.mapped:
                self._take_out(other)
                block = (
                    self._join(other, block) if other.address < block.address else self._join(block, other)
                )
        self._put_in(block)

    def _best(self, size: int, small: bool) -> Block | None:
        """The smallest free block that holds `size` (`get_free_block`), unless it is too large to be taken
        whole."""
        pool = self._free[small]
        at = bisect_left(pool, (size,))
        if at == len(pool):
            return None
        block = pool[at][2]
        most = self.settings.max_split_size
        if most is not None and not small:
            if size < most <= block.size:
                return None
            if size >= most and block.size >= size + NON_SPLIT_ROUNDING:
                return None
        return block

    def _should_split(self, block: Block, size: int) -> bool:
        left = block.size - size
        if block.small or self.settings.expandable_segments:
            return left >= MIN_BLOCK
        most = self.settings.max_split_size
        return (most is None or size < most) and left > SMALL_SIZE

    def _new(self, size: int, small: bool) -> Block:
        """A free block from the card: first without, then with giving back what is free."""
        share = self.settings.gc_threshold
        if share and self.limit is not None and self.reserved + segment_size(size) > share * self.limit:
            self._collect(int(self.reserved - share * self.limit))
        block = self._from_card(size, small)
        if block is None and self._give_back_one(segment_size(size)):
            block = self._from_card(size, small)
        if block is None:
            self.retries += 1
            self._give_back_all()
            block = self._from_card(size, small)
        if block is None:
            raise OutOfMemory
        return block

    def _from_card(self, size: int, small: bool) -> Block | None:
        if self.settings.expandable_segments:
            return self._expand(size, small)
        whole = segment_size(size)
        if self.limit is not None and self.reserved + whole > self.limit:
            return None
        block = Block(self._next, whole, small)
        self._next += whole
        self.reserved += whole
        self.segments.add(block)
        self._put_in(block)
        return block

    def _expand(self, size: int, small: bool) -> Block | None:
        """Map pages at the lowest address where a run of free and bare addresses is long enough, the end at
        last."""
        page = SMALL_BUFFER if small else LARGE_BUFFER
        if small not in self._tail:
            first = Block(1 << (50 if small else 51), 0, small)
            self.segments.add(first)
            self._tail[small] = first
        start, run = self._run(small, size)
        if run < size:
            missing = -(-(size - run) // page) * page
            run += missing
        else:
            missing = 0
        bare = _bare(start, size)
        if self.limit is not None and self.reserved + missing + bare > self.limit:
            return None
        self.reserved += missing + bare
        return self._merge(start, size, missing)

    def _run(self, small: bool, size: int) -> tuple[Block, int]:
        """Where the run begins, and how long it is: the first with a hole that is long enough, else the
        end's."""
        block: Block | None = self._tail[small]
        runs: list[tuple[Block, int, bool]] = []
        while block is not None:
            if block.free:
                length, hole, start = 0, False, block
                while block is not None and block.free:
                    length, hole, start = length + block.size, hole or not block.mapped, block
                    block = block.before
                runs.append((start, length, hole))
            else:
                block = block.before
        for start, length, hole in reversed(runs):
            if hole and length >= size:
                return start, length
        tail = self._tail[small]
        if tail.free and runs:
            return runs[0][0], runs[0][1]
        end = Block(tail.address + tail.size, 0, small, before=tail)
        tail.after = self._tail[small] = end
        return end, 0

    def _merge(self, start: Block, size: int, missing: int) -> Block:
        """One mapped free block from `start` on, at least `size` long."""
        if start.mapped and start.size:
            self._take_out(start)
        start.mapped = True
        while start.size < size and start.after is not None:
            if start.after.mapped:
                self._take_out(start.after)
            self._join(start, start.after)
        start.size += missing
        self._put_in(start)
        return start

    def _join(self, left: Block, right: Block) -> Block:
        left.size += right.size
        left.after = right.after
        if right.after is not None:
            right.after.before = left
        if self._tail.get(left.small) is right:
            self._tail[left.small] = left
        left.free = True
        return left

    def _give_back_one(self, need: int) -> bool:
        """With a split limit: the smallest oversize free segment that is enough, else several, largest first
        (`release_available_cached_blocks`)."""
        most = self.settings.max_split_size
        if most is None or self.settings.expandable_segments:
            return False
        oversize = [b for *_, b in self._free[False] if b.whole and b.size >= max(most, need)]
        if oversize:
            self._release(oversize[0])
            return True
        freed = 0
        for block in [b for *_, b in reversed(self._free[False]) if b.whole and b.size >= most]:
            self._release(block)
            freed += block.size
            if freed >= need:
                return True
        return False

    def _give_back_all(self) -> None:
        """Every free segment, or every free page of an expandable one (`release_cached_blocks`)."""
        for small in (True, False):
            for *_, block in list(self._free[small]):
                if self.settings.expandable_segments:
                    self._unmap(block)
                elif block.whole:
                    self._release(block)

    def _collect(self, wanted: int) -> None:
        """Free segments that were idle longest, at least as long as the average
        (`garbage_collect_cached_blocks`)."""
        idle = [b for *_, b in self._free[False] if b.whole]
        freed = 0
        while idle and freed < wanted:
            ages = [self._clock - b.age for b in idle]
            threshold = sum(ages) / len(ages)
            old = [b for b, age in zip(idle, ages, strict=True) if age >= threshold]
            for block in old:
                self._release(block)
                idle.remove(block)
                freed += block.size

    def _release(self, block: Block) -> None:
        self._take_out(block)
        self.segments.remove(block)
        self.reserved -= block.size

    def _unmap(self, block: Block) -> None:
        """Return the whole pages inside a free block; what sticks out on either side stays mapped and
        free."""
        page = SMALL_BUFFER if block.small else LARGE_BUFFER
        origin = 1 << (50 if block.small else 51)
        first = origin + -(-(block.address - origin) // page) * page
        last = origin + (block.address + block.size - origin) // page * page
        if last <= first:
            return
        self._take_out(block)
        self.reserved -= last - first
        pieces = [
            (block.address, first, True),
            (first, last, False),
            (last, block.address + block.size, True),
        ]
        left, end = block.before, block.after
        for begin, stop, mapped in pieces:
            if stop == begin:
                continue
            piece = Block(begin, stop - begin, block.small, mapped=mapped, before=left)
            if left is not None:
                left.after = piece
            else:
                self.segments.discard(block)
                self.segments.add(piece)
            if mapped:
                self._put_in(piece)
            left = piece
        assert left is not None
        left.after = end
        if end is not None:
            end.before = left
        else:
            self._tail[block.small] = left

    def _put_in(self, block: Block) -> None:
        block.free, block.age = True, self._clock
        insort(self._free[block.small], block.entry)

    def _take_out(self, block: Block) -> None:
        pool = self._free[block.small]
        at = bisect_left(pool, (block.size, block.address))
        if at < len(pool) and pool[at][2] is block:
            del pool[at]


def _bare(start: Block, size: int) -> int:
    """Unmapped bytes among the blocks from `start` on that make up `size`."""
    total = 0
    length = 0
    block: Block | None = start
    while block is not None and length < size:
        total += 0 if block.mapped else block.size
        length += block.size
        block = block.after
    return total


def replay(
    requests: Iterable[tuple[bool, int, int]], *, settings: Settings | None = None, limit: int | None = None
) -> Replay:
    """Run (is it an allocation, name, bytes) requests through the allocator. Stops at the first that
    fails."""
    allocator = Allocator(settings, limit)
    blocks: dict[int, tuple[Block, int]] = {}
    requested = most_requested = allocated = reserved = allocated_at = reserved_at = segments = 0
    failed: int | None = None
    for number, (is_new, name, size) in enumerate(requests):
        if size == 0:
            continue
        if not is_new:
            block, asked = blocks.pop(name)
            allocator.free(block)
            requested -= asked
            continue
        try:
            blocks[name] = allocator.malloc(size), size
        except OutOfMemory:
            failed = number
            break
        requested += size
        most_requested = max(most_requested, requested)
        if allocator.allocated > allocated:
            allocated, allocated_at = allocator.allocated, number
        if allocator.reserved > reserved:
            reserved, reserved_at, segments = allocator.reserved, number, len(allocator.segments)
    return Replay(
        peak_requested=most_requested,
        peak_allocated=allocated,
        peak_reserved=reserved,
        allocated_at=allocated_at,
        reserved_at=reserved_at,
        segments=segments,
        retries=allocator.retries,
        failed_at=failed,
    )
