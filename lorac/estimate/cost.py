"""What a program costs on a card: traced exactly, or estimated from one trace while the planner searches.

- `exact` traces every phase of the program's run and replays it through the card's allocator; the peak is the
  largest phase's.
- `quick` scales the trace at micro-batch 1 (activations, temporaries and arithmetic grow with the micro-batch, the
  rest does not) and knows recomputation by `lorac.recompute`'s model. It ranks; only `exact` is believed.
- Bytes are those of the largest micro-batch, seconds the mean over those of an epoch (`dealt`).
- Traces are kept on disk by content and shared by cards (`kept`): what a card makes of it takes centiseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import attrs

from lorac import offload, recompute, sharding
from lorac.estimate import allocator, cuda, fused, host, phases, roofline, traced_blocks
from lorac.estimate.cards import Card
from lorac.estimate.dealt import Dealt, Epochs, compared
from lorac.estimate.encoded import encoded_bytes
from lorac.estimate.kept import Traces
from lorac.estimate.record import Call, Peak, Trace
from lorac.estimate.traced_blocks import Block as Block
from runtime import compiler, plan
from runtime.data.order import Numbers
from runtime.dtypes import DTYPES

GROWS = ("saved activations", "temporaries", "inputs")
"""Kinds that are proportional to the micro-batch."""
CALLS_DENOISER = ("evaluate", "sample")
"""Phases beside the train step in which offloaded blocks come to the card, two at most."""


@attrs.frozen(kw_only=True)
class Cost:
    """Bytes at the peak (allocator, context and workspaces included), by kind and by phase, and seconds.

    `by_kind` is the train step's, `peak_kinds` that of the phase with the highest peak. `micro_seconds` are those of
    the mean micro-batch; `waiting_seconds`, of these, are those in which it waits for offloaded blocks. `host_bytes` is
    the most that the process has of main memory; `disk_bytes` is one checkpoint's. `dealt` says how the real
    micro-batches compare with full ones; None where all are taken to be full. `compile_seconds` are taken once.
    """

    peak_bytes: int
    by_kind: dict[str, int]
    phases: dict[str, int]
    micro_seconds: float
    update_seconds: float
    seconds_per_step: float
    host_bytes: int
    disk_bytes: int
    blocks: tuple[Block, ...]
    waiting_seconds: float = 0.0
    peak_kinds: dict[str, int] = attrs.field(factory=dict)
    dealt: Dealt | None = None
    compile_seconds: float = 0.0

    def seconds_in_all(self, steps: int) -> float:
        """Of a run of so many steps."""
        return self.seconds_per_step * steps + self.compile_seconds


@attrs.frozen
class Moment:
    """The most of a phase: the tensors then, and what the allocator holds for them."""

    trace: Trace
    peak: Peak
    reserved: int


class Costs:
    """The costs of programs on one card. Traces are kept in `folder`, for every card of the same capability.

    `outputs` say what is drawn and written while training; None where nothing is. `lengths` are the tokens of each text
    that is trained on; where these are not known, all are taken to be as long as they may be. `tell` is told of each
    trace before it is made.
    """

    def __init__(
        self,
        card: Card,
        folder: Path,
        outputs: plan.Outputs | None = None,
        lengths: Numbers | None = None,
        tell: Callable[[str], None] = lambda words: None,
    ) -> None:
        self.card = card
        self.folder = folder
        self.outputs = outputs
        self.lengths = lengths
        self._tell = tell
        self._traces = Traces(folder / "traces")
        self._known: dict[str, Cost] = {}
        self._seconds: dict[tuple[str, int], float] = {}
        self._waits: dict[str, dict[str, dict[str, int]]] = {}
        self._epochs = Epochs(lengths)
        self._deals: dict[tuple[str, int], Dealt] = {}
        self._encoded: dict[str, int] = {}
        self._names: dict[str, dict[str, list[str]]] = {}

    def on(self, card: Card) -> Costs:
        """The same on another card."""
        return Costs(card, self.folder, self.outputs, self.lengths, self._tell)

    def drawing(self, outputs: plan.Outputs | None) -> Costs:
        """The same where that is drawn."""
        if outputs == self.outputs:
            return self
        return Costs(self.card, self.folder, outputs, self.lengths, self._tell)

    def trace(self, program: plan.Program) -> Trace:
        """One step of this very program, eager, as this card's kernels run it."""
        return self._traces.training_first(eager(program), self.outputs, self.card.capability)

    def exact(self, program: plan.Program) -> Cost:
        """By tracing this very program; its blocks, where they are compiled, as they are eager."""
        if program.compute.compiled:
            return self._with_blocks_compiled(self.exact(eager(program)), program)
        key = _key(program)
        if key not in self._known:
            self._tell(f"tracing a step of micro-batch {program.train.micro_batch}")
            self._known[key] = self._cost(program)
        return self._known[key]

    def moments(self, program: plan.Program) -> dict[str, Moment]:
        """Each phase's fullest moment, in the order in which the runtime comes to them."""
        capability, training = self.card.capability, self.trace(program)
        preparing = self._traces.preparing(program, capability)
        found = {name: _moment(preparing, name, self.card) for name in ("load", "cache")}
        found["train"] = Moment(training, training.peak, _reserved(training, self.card))
        if program.data.held_out:
            evaluating = self._traces.evaluating(program, capability)
            found["evaluate"] = _moment(evaluating, "evaluate", self.card)
        if self.outputs is not None:
            pausing = self._traces.pausing(program, self.outputs, capability)
            drawn = ("sample",) if self.outputs.samples.prompts else ()
            found |= {name: _moment(pausing, name, self.card) for name in ("save", *drawn)}
        return found

    def _cost(self, program: plan.Program) -> Cost:
        trace, card, overhead = self.trace(program), self.card, cuda.overhead(self.card)
        moments, beside = self.moments(program), self._beside(program)
        here = beside if card.device == "cpu" else {name: {} for name in moments}  # a CPU has one memory
        peaks = {
            name: moment.reserved + sum(here[name].values()) + overhead for name, moment in moments.items()
        }
        most = max(peaks, key=lambda name: peaks[name])
        train_kinds, peak_kinds = (_kinds(moments[name], here[name], overhead) for name in ("train", most))
        found = self._dealt(program)
        waiting = self._waiting(program, found)
        cost = Cost(
            peak_bytes=peaks[most],
            by_kind=train_kinds,
            peak_kinds=peak_kinds,
            phases=peaks,
            micro_seconds=roofline.seconds(_passes(trace), card) * _share(found) + waiting,
            waiting_seconds=waiting,
            update_seconds=roofline.seconds(_updates(trace), card) + self._paging(program, trace),
            seconds_per_step=0.0,
            host_bytes=self._host_bytes(program, moments, peaks, beside),
            disk_bytes=self._checkpoint_bytes(program, trace),
            blocks=self._blocks(program, trace),
            dealt=found,
        )
        return _for_steps(cost, program)

    def _blocks(self, program: plan.Program, trace: Trace) -> tuple[Block, ...]:
        """Its blocks; of those that are split, the trace has a part of the weights."""
        found = traced_blocks.found(self._spoken(program), trace, self.card)
        if not program.compute.sharded:
            return found
        whole = self.exact(single(program)).blocks
        return tuple(
            attrs.evolve(block, weights=one.weights) for block, one in zip(found, whole, strict=True)
        )

    def _spoken(self, program: plan.Program) -> dict[str, list[str]]:
        """Its blocks, each with what the tracer may call it; found once, as the modules are made for it."""
        base = program.base
        key = repr((base.family, base.architecture, plan.trained(program.adapter)))
        if key not in self._names:
            self._names[key] = traced_blocks.spoken(program)
        return self._names[key]

    def _with_blocks_compiled(self, cost: Cost, program: plan.Program) -> Cost:
        """The cost of a program whose blocks are compiled, from that of the same one eager: its memory is taken for
        theirs, which is less (docs/LOG.md), and the compiler's own comes on top."""
        alone = single(eager(program))
        gain = fused.gain(
            traced_blocks.calls_of(self._spoken(alone), self.trace(alone)),
            program.compute.checkpointed,
            program.train.micro_batch,
            self.card,
        )
        kind = {fused.KIND: fused.RESIDENT}
        made = attrs.evolve(
            cost,
            peak_bytes=cost.peak_bytes + fused.RESIDENT,
            by_kind={**cost.by_kind, **kind},
            peak_kinds={**cost.peak_kinds, **kind},
            phases={name: size + fused.RESIDENT for name, size in cost.phases.items()},
            micro_seconds=cost.micro_seconds - gain.saves * _share(cost.dealt),
            host_bytes=cost.host_bytes + fused.RESIDENT,
            compile_seconds=gain.takes,
        )
        return _for_steps(made, program)

    def _paging(self, program: plan.Program, trace: Trace) -> float:
        """Seconds in which the optimizer's state comes to the card and goes back."""
        if not program.compute.paged_optimizer or self.card.device == "cpu":
            return 0.0
        return 2 * state_bytes(program, trace) / self.card.link

    def _beside(self, program: plan.Program) -> dict[str, dict[str, int]]:
        """What waits in main memory (`phases.waiting`), asked for once: neither batch nor blocks move it."""
        key = repr((_encodes(program), _without_blocks(program.compute)))
        if key not in self._waits:
            self._waits[key] = phases.waiting(program, self.outputs, self.encoded(program))
        return self._waits[key]

    def encoded(self, program: plan.Program) -> int:
        """Bytes of what is encoded once and kept on disk (`encoded.encoded_bytes`)."""
        key = repr(_encodes(program))
        if key not in self._encoded:
            self._encoded[key] = encoded_bytes(program)
        return self._encoded[key]

    def _host_bytes(
        self,
        program: plan.Program,
        moments: dict[str, Moment],
        peaks: dict[str, int],
        beside: dict[str, dict[str, int]],
    ) -> int:
        """The process, and the most that any phase has beside it."""
        device, taken = self.card.device, []
        for name, moment in moments.items():
            on_card = host.traced_bytes(moment.trace, moment.peak.phase) + sum(beside[name].values())
            tensors = on_card if device == "cuda" else peaks[name]
            taken.append(tensors + host.picture_bytes(program, self.outputs, name))
        return host.process_bytes(device) + max(taken)

    def _checkpoint_bytes(self, program: plan.Program, trace: Trace) -> int:
        """The masters in float32, the optimizer's state, the average, and the LoRA in its file's dtype."""
        kinds = trace.peak.by_kind()
        masters = kinds.get("master weights") or kinds["adapter"]
        lora = "fp16" if self.outputs is None else self.outputs.dtype
        kept = state_bytes(program, trace) + kinds.get("averaged weights", 0)
        return masters + kept + masters * DTYPES[lora].itemsize // 4

    def quick(self, program: plan.Program) -> Cost:
        """From the trace at micro-batch 1 without recomputation."""
        if program.compute.compiled:
            return self._with_blocks_compiled(self.quick(eager(program)), program)
        micro, found = program.train.micro_batch, self._dealt(program)
        waiting = self._waiting(program, found)
        alone = single(program)
        one = self.exact(alone)
        grows = sum(size for kind, size in one.by_kind.items() if kind in GROWS)
        saved = [block.saved * micro for block in one.blocks]
        again, away = indices(one.blocks, program.compute)
        less = sum(saved) - recompute.peak(saved, again)
        weights = [block.weights for block in one.blocks]
        freed = offload.freed(weights, away)
        if program.compute.sharded:
            freed = sharding.freed(weights, program.train.processes)
        blocks = tuple(
            attrs.evolve(block, saved=size, seconds=block.seconds * micro)
            for block, size in zip(one.blocks, saved, strict=True)
        )
        # Where the denoiser is not called, none of its blocks comes to the card.
        absent = freed if program.compute.sharded else sum(weights[index] for index in away)
        others = max(
            size - (freed if name in CALLS_DENOISER else absent)
            for name, size in one.phases.items()
            if name != "train"
        )
        train = one.phases["train"] + grows * (micro - 1) - less - freed
        cost = attrs.evolve(
            one,
            peak_bytes=max(train, others),
            by_kind={},
            micro_seconds=_share(found)
            * (self._alone_seconds(alone, micro) + sum(blocks[index].seconds for index in again))
            + waiting,
            waiting_seconds=waiting,
            blocks=blocks,
            dealt=found,
        )
        return _for_steps(cost, program)

    def blocks(self, program: plan.Program) -> tuple[str, ...]:
        """Every block that may be recomputed or offloaded."""
        return tuple(block.name for block in self.exact(single(program)).blocks)

    def scores_attention(self, program: plan.Program) -> bool:
        """Whether some attention makes its matrix of queries × keys: slices of it then take less."""
        return any("softmax" in call.operator for call in self.trace(single(program)).calls)

    def _alone_seconds(self, alone: plan.Program, micro: int) -> float:
        """A micro-batch's seconds, from the trace of one sample."""
        key = (_key(alone), micro)
        if key not in self._seconds:
            self._seconds[key] = roofline.seconds(_passes(self.trace(alone)), self.card, micro)
        return self._seconds[key]

    def _dealt(self, program: plan.Program) -> Dealt | None:
        """How the program's micro-batches compare with full ones, by the traces of single samples of some shapes."""
        of = self._epochs.of(program)
        if of is None:
            return None
        alone = single(program)
        key = (_key(alone), program.train.micro_batch)
        if key not in self._deals:
            self._deals[key] = compared(of, program, alone, self._alone_seconds)
        return self._deals[key]

    def _waiting(self, program: plan.Program, found: Dealt | None) -> float:
        """Seconds that the mean micro-batch waits for blocks that are offloaded, or gathered."""
        split = program.compute.sharded
        if not plan.blocks_away(program.compute) and not split:
            return 0.0
        micro, blocks = program.train.micro_batch * _share(found), self.exact(single(program)).blocks
        again, away = indices(blocks, program.compute)
        weights, seconds = zip(*((block.weights, block.seconds * micro) for block in blocks), strict=True)
        if split:
            away = list(range(len(blocks)))
            weights = tuple(sharding.fetched(size, program.train.processes) for size in weights)
        return offload.waiting(weights, seconds, away, again, self.card.link)


def state_bytes(program: plan.Program, trace: Trace) -> int:
    """What the optimizer keeps, on the card or where it is paged to."""
    where = trace.host_phases if program.compute.paged_optimizer else trace.phases
    return where[trace.peak.phase].by_kind().get("optimizer state", 0)


def eager(program: plan.Program) -> plan.Program:
    """The program with no block compiled, by no compiler."""
    if not program.compute.compiled:
        return program
    versions = {name: said for name, said in program.versions.items() if name != compiler.NAME}
    return attrs.evolve(program, compute=attrs.evolve(program.compute, compiled=False), versions=versions)


def _key(program: plan.Program) -> str:
    """What a cost depends on. The data's items count by their largest bucket alone: a thousand are slow to hash."""
    base, bucket = program.base, plan.largest(program.data)
    return repr((base.family, base.architecture, bucket, program.adapter, program.train, program.compute))


def _encodes(program: plan.Program) -> tuple[object, ...]:
    """What encoded data depends on."""
    base = program.base
    return base.family, base.architecture, plan.trained(program.adapter), program.data


def _without_blocks(compute: plan.Compute) -> plan.Compute:
    """How it is computed, but for what is done with blocks."""
    away = plan.blocks_away(compute)
    waits = tuple(name for name in compute.offloaded if name not in away)
    return attrs.evolve(compute, checkpointed=(), offloaded=waits, sharded=())


def indices(blocks: tuple[Block, ...], compute: plan.Compute) -> tuple[list[int], list[int]]:
    """Which blocks are recomputed, and which are offloaded."""
    again, away = set(compute.checkpointed), set(compute.offloaded)
    return (
        [index for index, block in enumerate(blocks) if block.name in again],
        [index for index, block in enumerate(blocks) if block.name in away],
    )


def single(program: plan.Program) -> plan.Program:
    """The program at micro-batch 1, with no block recomputed, offloaded or split, and the same effective batch."""
    accumulation = program.train.micro_batch * program.train.accumulation
    train = attrs.evolve(program.train, micro_batch=1, accumulation=accumulation)
    return attrs.evolve(program, train=train, compute=_without_blocks(program.compute))


def choices_of(cost: Cost, usable: int) -> list[tuple[str, ...]]:
    """Blocks to recompute, given a cost without recomputation: none, the cheapest set that fits `usable`, all."""
    names, saved = [block.name for block in cost.blocks], [block.saved for block in cost.blocks]
    room = usable - (cost.peak_bytes - recompute.peak(saved, ()))
    chosen = recompute.choose(saved, [block.seconds for block in cost.blocks], room)
    part = () if chosen is None else tuple(names[index] for index in chosen)
    return list(dict.fromkeys([(), part, tuple(names)]))


def _passes(trace: Trace) -> Iterable[Call]:
    """The calls of one micro-batch's forward and backward."""
    return (call for call in trace.calls if call.during != "optimizer")


def _updates(trace: Trace) -> Iterable[Call]:
    """The calls that come once a step."""
    return (call for call in trace.calls if call.during == "optimizer")


def _for_steps(cost: Cost, program: plan.Program) -> Cost:
    micro_batches = program.train.accumulation if cost.dealt is None else cost.dealt.micro_batches
    seconds = cost.micro_seconds * micro_batches + cost.update_seconds
    return attrs.evolve(cost, seconds_per_step=seconds)


def _share(found: Dealt | None) -> float:
    """The mean micro-batch's seconds as a share of a full one's."""
    return 1.0 if found is None else found.share


def _kinds(moment: Moment, beside: dict[str, int], overhead: int) -> dict[str, int]:
    """Bytes by kind of all that is taken at a phase's fullest moment."""
    unused = moment.reserved - moment.peak.bytes
    kinds = {
        **moment.peak.by_kind(),
        **beside,
        "cached but unused": unused,
        "context and workspaces": overhead,
    }
    return {kind: size for kind, size in kinds.items() if size}


def _moment(trace: Trace, name: str, card: Card) -> Moment:
    """A phase of a trace that goes through several, one after the other."""
    peak = trace.phases[name]
    if card.device == "cpu":
        return Moment(trace, peak, peak.bytes)
    marks = [at for at, _ in trace.marks if at > _begin(trace, name)]
    until = marks[0] if marks else len(trace.events)
    return Moment(trace, peak, allocator.replay(trace.requests(until)).peak_reserved)


def _begin(trace: Trace, name: str) -> int:
    return next(at for at, mark in trace.marks if mark == name)


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
