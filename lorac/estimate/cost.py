"""What a program costs on a card: traced exactly, or estimated from one trace while the planner searches.

- `exact` traces the program's own step and replays it through the card's allocator.
- `quick` scales the trace at micro-batch 1 (activations, temporaries and arithmetic grow with the micro-batch, the
  rest does not) and knows recomputation by `lorac.recompute`'s model. It ranks; only `exact` is believed.
- Traces are kept on disk by content: the program's part that matters, the card, the package versions and our own code.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from pathlib import Path
from typing import Any

import attrs
import cattrs

from lorac import recompute
from lorac.estimate import allocator, cuda, phases, roofline
from lorac.estimate.cards import Card
from lorac.estimate.record import Trace
from lorac.places import code_digest
from runtime import plan
from runtime.families import family
from runtime.safeio import atomic, strict_json

VERSION = 1
STATE_BYTES = 14
"""A checkpoint's bytes for each trained parameter: float32 master and two moments, and a LoRA in 16 bits."""

GROWS = ("saved activations", "temporaries", "inputs")
"""Kinds that are proportional to the micro-batch."""


@attrs.frozen(kw_only=True)
class Block:
    """A block that may be recomputed: what it saves for its backward, and how long its forward takes."""

    name: str
    saved: int
    seconds: float


@attrs.frozen(kw_only=True)
class Cost:
    """Bytes at the peak (allocator, context and workspaces included), by kind and by phase, and seconds."""

    peak_bytes: int
    by_kind: dict[str, int]
    phases: dict[str, int]
    micro_seconds: float
    launch_seconds: float
    update_seconds: float
    seconds_per_step: float
    host_bytes: int
    disk_bytes: int
    blocks: tuple[Block, ...]


class Costs:
    """The costs of programs on one card. Remembers what it traced, in memory and in `folder`."""

    def __init__(self, card: Card, folder: Path) -> None:
        self.card = card
        self.folder = folder / "traces"
        self._known: dict[str, Cost] = {}
        self._cached: dict[str, int] = {}

    def exact(self, program: plan.Program) -> Cost:
        """By tracing this very program."""
        key = hashlib.sha256(strict_json.canonical(self._question(program)).encode()).hexdigest()
        if key not in self._known:
            path = self.folder / f"{key}.json"
            found = _read(path)
            if found is None:
                found = self._trace(program)
                path.parent.mkdir(parents=True, exist_ok=True)
                atomic.write_text(path, strict_json.canonical(cattrs.unstructure(found)))
            self._known[key] = found
        return _for_steps(self._known[key], program)

    def quick(self, program: plan.Program) -> Cost:
        """From the trace at micro-batch 1 without recomputation."""
        micro, names = program.train.micro_batch, set(program.compute.checkpointed)
        one = self._single(program)
        grows = sum(size for kind, size in one.by_kind.items() if kind in GROWS)
        blocks = tuple(
            attrs.evolve(block, saved=block.saved * micro, seconds=block.seconds * micro)
            for block in one.blocks
        )
        saved = [block.saved for block in blocks]
        again = [index for index, block in enumerate(blocks) if block.name in names]
        less = sum(saved) - recompute.peak(saved, again)
        work = one.micro_seconds - one.launch_seconds
        cost = attrs.evolve(
            one,
            peak_bytes=one.peak_bytes + grows * (micro - 1) - less,
            by_kind={},
            micro_seconds=max(one.launch_seconds, work * micro)
            + sum(blocks[index].seconds for index in again),
            blocks=blocks,
        )
        return _for_steps(cost, program)

    def blocks(self, program: plan.Program) -> tuple[str, ...]:
        """Every block that may be recomputed."""
        return tuple(block.name for block in self._single(program).blocks)

    def _single(self, program: plan.Program) -> Cost:
        train = attrs.evolve(program.train, micro_batch=1)
        compute = attrs.evolve(program.compute, checkpointed=())
        return self.exact(attrs.evolve(program, train=train, compute=compute))

    def _question(self, program: plan.Program) -> dict[str, Any]:
        """All that a trace's answer depends on."""
        train = program.train
        return {
            "version": VERSION,
            "code": code_digest(),
            "versions": program.versions,
            "card": cattrs.unstructure(self.card),
            "architecture": [program.base.family, program.base.architecture, program.base.prediction_type],
            "adapter": plan.unstructure(program.adapter),
            "bucket": phases.largest_bucket(program.data),
            "samples": len(program.data.items) or program.data.expected,
            "micro_batch": train.micro_batch,
            "accumulates": train.accumulation > 1,
            "optimizer": plan.unstructure(train.optimizer),
            "objective": plan.unstructure(train.objective),
            "compute": plan.unstructure(program.compute),
        }

    def _trace(self, program: plan.Program) -> Cost:
        card = self.card
        trace, overhead = phases.training(program, card.capability), cuda.overhead(self.card)
        update = [call for call in trace.calls if call.during == "optimizer"]
        passes = [call for call in trace.calls if call.during != "optimizer"]
        reserved, by_kind = _reserved(trace, card), trace.peak.by_kind()
        by_kind["cached but unused"] = reserved - trace.peak.bytes
        by_kind["context and workspaces"] = overhead
        peaks = {"train": reserved + overhead, "cache": self._caching(program) + overhead}
        return Cost(
            peak_bytes=max(peaks.values()),
            by_kind={kind: size for kind, size in by_kind.items() if size},
            phases=peaks,
            micro_seconds=roofline.seconds(passes, card),
            launch_seconds=len(passes) * card.launch,
            update_seconds=roofline.seconds(update, card),
            seconds_per_step=0.0,
            host_bytes=0,
            disk_bytes=STATE_BYTES * trained_parameters(trace),
            blocks=_blocks(program, trace, card),
        )

    def _caching(self, program: plan.Program) -> int:
        """Bytes that encoding pictures and captions takes: it depends on neither adapter nor micro-batch."""
        question = {
            name: self._question(program)[name] for name in ("code", "card", "architecture", "bucket")
        }
        key = hashlib.sha256(strict_json.canonical(question).encode()).hexdigest()
        if key not in self._cached:
            self._cached[key] = _reserved(phases.caching(program, self.card.capability), self.card)
        return self._cached[key]


def choices_of(cost: Cost, usable: int) -> list[tuple[str, ...]]:
    """Blocks to recompute, given a cost without recomputation: none, the cheapest set that fits `usable`, all."""
    names, saved = [block.name for block in cost.blocks], [block.saved for block in cost.blocks]
    room = usable - (cost.peak_bytes - recompute.peak(saved, ()))
    chosen = recompute.choose(saved, [block.seconds for block in cost.blocks], room)
    part = () if chosen is None else tuple(names[index] for index in chosen)
    return list(dict.fromkeys([(), part, tuple(names)]))


def trained_parameters(trace: Trace) -> int:
    """How many numbers the optimizer moves, from the size of its two float32 moments."""
    return sum(block.bytes for block in trace.peak.live if block.kind == "optimizer state") // 8


def _for_steps(cost: Cost, program: plan.Program) -> Cost:
    seconds = cost.micro_seconds * program.train.accumulation + cost.update_seconds
    return attrs.evolve(cost, seconds_per_step=seconds)


def _reserved(trace: Trace, card: Card) -> int:
    """What the card's allocator holds at most, once the step has come by twice; on a CPU, what is live at most."""
    if card.device == "cpu":
        return trace.peak.bytes
    start = next(at for at, name in trace.marks if name == "step")
    born = {abs(event) - 1 for event in trace.events[start:] if event > 0}
    died = {abs(event) - 1 for event in trace.events[start:] if event < 0}
    requests = list(trace.requests())
    again = [(is_new, -1 - name, size) for is_new, name, size in requests if name in born and name in died]
    return allocator.replay([*requests, *again]).peak_reserved


def _blocks(program: plan.Program, trace: Trace, card: Card) -> tuple[Block, ...]:
    """What each block that may be recomputed saves, and its forward's seconds, in the order of the forward pass."""
    of = family(program.base.family)
    components = dict.fromkeys([of.DENOISER, *program.adapter.targets])
    modules = phases.bare(program, list(components), program.compute.dtype)
    names = {
        f"{type(modules[name.split('.')[0]]).__name__}.{name.split('.', 1)[1]}": name
        for name in of.blocks(modules)
    }
    saved: dict[str, int] = defaultdict(int)
    calls: dict[str, list[Any]] = defaultdict(list)
    for block in trace.peak.live:
        owner = _owner(block.module, names)
        if owner and block.kind == "saved activations":
            saved[owner] += block.bytes
    for call in trace.calls:
        owner = _owner(call.module, names)
        if owner and call.during == "forward":
            calls[owner].append(call)
    return tuple(
        Block(name=name, saved=saved[name], seconds=roofline.seconds(calls[name], card))
        for name in names.values()
    )


def _owner(module: str, names: dict[str, str]) -> str | None:
    """The block that a module path lies in."""
    while module:
        if module in names:
            return names[module]
        module = module.rpartition(".")[0]
    return None


def _read(path: Path) -> Cost | None:
    """A kept cost; None if there is none, or it is damaged (it is made anew)."""
    try:
        return cattrs.structure(strict_json.read(path), Cost)
    except Exception:  # whatever is wrong with a cache entry, the cure is the same
        return None
