"""What a trace leaves behind: blocks of memory with their lifetimes, operator calls, and the peak's make-up.

- A block is one untyped storage: views and in-place results share it, so no byte is counted twice.
- Sizes are kept exact; sums round each block to 512 B, the least unit of CUDA's caching allocator
  (`kMinBlockSize`, c10/core/AllocatorConfig.h), so a sum is what `torch.cuda.memory_allocated` would say.
- No torch here: a recording can be stored, compared and replayed without it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from itertools import pairwise
from typing import Literal

import attrs

Kind = Literal[
    "base weights",
    "adapter",
    "master weights",
    "gradients",
    "optimizer state",
    "averaged weights",
    "saved activations",
    "temporaries",
    "inputs",
]
Place = Literal["card", "host"]
Pass = Literal["make", "forward", "backward", "recompute", "optimizer"]

ROUND = 512


def rounded(size: int) -> int:
    """`size` in bytes, up to the allocator's unit of 512 B; an empty storage takes nothing."""
    return -(-size // ROUND) * ROUND


@attrs.define
class Block:
    """One storage: `bytes` as asked for, what it is, and the module, operator and phase that made it."""

    bytes: int
    kind: Kind
    module: str
    operator: str
    phase: str
    born: Pass
    place: Place = "card"


@attrs.frozen
class Call:
    """One operator call that moves memory: FLOPs (a multiply-add is two) and bytes read and written.

    On a CPU `rows` and `cells` say what an operator that computes makes for itself: attention's queries and scores,
    a convolution's pixels and columns (elements); 0 elsewhere.
    """

    operator: str
    module: str
    during: Pass
    dtype: str
    flops: int
    bytes: int
    rows: int = 0
    cells: int = 0


@attrs.frozen
class Peak:
    """The moment of most live bytes: `at` is the number of events before it, `live` the blocks alive then."""

    bytes: int
    at: int
    phase: str
    live: tuple[Block, ...]

    def by_kind(self) -> dict[str, int]:
        """Bytes by kind, most first."""
        return _total(self.live, lambda block: block.kind)

    def by_module(self, depth: int | None = None) -> dict[str, int]:
        """Bytes by module path, most first; paths cut to their first `depth` names."""
        return _total(self.live, lambda block: ".".join(block.module.split(".")[:depth]))


@attrs.frozen
class Trace:
    """A recording. `events` holds n+1 when `blocks[n]` is allocated and -(n+1) when it is freed, in order;
    `marks` says at which event each phase begins (a phase may come back); `calls` are the last step's."""

    blocks: tuple[Block, ...]
    events: tuple[int, ...]
    marks: tuple[tuple[int, str], ...]
    calls: tuple[Call, ...]
    steps: int

    @cached_property
    def phases(self) -> dict[str, Peak]:
        """The peak of each phase on the card, in the order that phases first began."""
        return self._peaks("card")

    @cached_property
    def host_phases(self) -> dict[str, Peak]:
        """The same for bytes that were put on the host by `on_host`."""
        return self._peaks("host")

    @property
    def peak(self) -> Peak:
        """The highest peak of all phases but "make" (building the modules is not what a run does)."""
        peaks = [peak for name, peak in self.phases.items() if name != "make"]
        return max(peaks or self.phases.values(), key=lambda peak: peak.bytes)

    @property
    def peak_bytes(self) -> int:
        return self.peak.bytes

    @property
    def flops(self) -> int:
        """Of one step (the last one traced)."""
        return sum(call.flops for call in self.calls)

    def requests(self, until: int | None = None) -> Iterator[tuple[bool, int, int]]:
        """The card's allocations in order, for the allocator's replay: (is it an allocation, block,
        bytes); of the first `until` events."""
        for event in self.events[:until]:
            index = abs(event) - 1
            if self.blocks[index].place == "card":
                yield event > 0, index, self.blocks[index].bytes

    def timeline(self) -> Iterator[tuple[int, int]]:
        """(event number, live bytes on the card after it), for a picture of the step."""
        live = 0
        for number, event in enumerate(self.events):
            block = self.blocks[abs(event) - 1]
            if block.place == "card":
                live += rounded(block.bytes) if event > 0 else -rounded(block.bytes)
                yield number, live

    def _peaks(self, place: Place) -> dict[str, Peak]:
        live = 0
        best: dict[str, tuple[int, int]] = {}
        marks = [*self.marks, (len(self.events), "")]
        for (start, name), (end, _) in pairwise(marks):
            high, at = max(best.get(name, (-1, 0)), (live, start))
            for number in range(start, end):
                event = self.events[number]
                block = self.blocks[abs(event) - 1]
                if block.place != place:
                    continue
                live += rounded(block.bytes) if event > 0 else -rounded(block.bytes)
                if live > high:
                    high, at = live, number + 1
            best[name] = (high, at)
        return {name: Peak(high, at, name, self._live(at, place)) for name, (high, at) in best.items()}

    def _live(self, at: int, place: Place) -> tuple[Block, ...]:
        alive: dict[int, Block] = {}
        for event in self.events[:at]:
            if event > 0:
                alive[event] = self.blocks[event - 1]
            else:
                alive.pop(-event, None)
        return tuple(block for block in alive.values() if block.place == place)


def _total(blocks: Iterable[Block], key: Callable[[Block], str]) -> dict[str, int]:
    totals: dict[str, int] = defaultdict(int)
    for block in blocks:
        totals[key(block)] += rounded(block.bytes)
    return dict(sorted(totals.items(), key=lambda item: (-item[1], item[0])))
