"""Where a plan's memory goes, module by module, and what each change to it would buy.

Everything comes from traces of the plan's own program, or of the program with one thing changed: the plan carries the
architecture, so neither base nor data is needed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs

from lorac import points, recompute, relief, timeline
from lorac.estimate import cards, cuda
from lorac.estimate.cards import Card
from lorac.estimate.cost import Cost, Costs, eager, single
from lorac.estimate.record import Peak, rounded
from runtime import plan
from runtime.errors import SpecError
from runtime.human import size
from runtime.safeio import atomic

DEPTH = 3
"""Names of a module's path that the tree goes down to."""
LEAST_SHARE = 0.01
"""Of the peak: smaller parts are summed up in one line."""
UNNAMED = "outside the modules"
"""Master weights, gradients, optimizer state: what the train step itself makes."""


@attrs.frozen(kw_only=True)
class Node:
    """A module of the tree: bytes at the peak with its kinds, most first; its parts, largest first."""

    name: str
    bytes: int
    kinds: dict[str, int]
    parts: tuple[Node, ...]


@attrs.frozen(kw_only=True)
class Change:
    """One thing changed, the rest kept (effective batch included): traced peak and predicted time."""

    what: str
    peak_bytes: int
    seconds_per_step: float
    fits: bool
    same_result: bool


@attrs.frozen(kw_only=True)
class Explained:
    """A plan's peak. `peak_bytes` is what the card holds (`by_kind` sums to it); the tree, the step's live tensors.

    `notes` say what was taken for a card that is not known here, and where the trace is not the plan's.
    """

    name: str
    plan_hash: str
    card: str
    usable_bytes: int
    peak_bytes: int
    seconds_per_step: float
    by_kind: dict[str, int]
    phases: dict[str, int]
    modules: Node
    changes: tuple[Change, ...]
    notes: tuple[str, ...]


def explain(of: plan.Plan, folder: Path, tell: Callable[[str], None] = lambda line: None) -> Explained:
    """Trace the plan's step and each change to it; `tell` hears which. Traces are kept in `folder`.

    Seconds are in the plan's measure: what this machine reckons for a change, as a share of what it reckons for the
    plan, times the plan's own seconds.
    """
    card, notes = card_of(of)
    costs = Costs(card, folder, of.outputs)
    tell("tracing the plan")
    cost, moments = costs.exact(of.program), costs.moments(of.program)
    usable, seconds = of.estimate.usable_bytes, of.estimate.seconds_per_step
    pace = seconds / cost.seconds_per_step
    changes = []
    for what, program, same in variants(of.program, costs):
        tell(f"tracing it with {what}")
        possible = eager(program) if plan.why_eager(program) else program
        changes.append(changed(what, costs.exact(possible), usable, same, pace))
    if cost.peak_bytes != of.estimate.peak_bytes:
        notes += (
            f"traced here the peak is {size(cost.peak_bytes)}, the plan says {size(of.estimate.peak_bytes)}: "
            "it was made for another kind of card or by another version",
        )
    if isinstance(of.program.data, plan.Texts) and not of.program.data.packing:
        notes += (
            "the plan does not say how long each text is: all seconds are taken to be padded as its own",
        )
    return Explained(
        name=of.outputs.name,
        plan_hash=of.plan_hash,
        card=of.estimate.card,
        usable_bytes=usable,
        peak_bytes=cost.peak_bytes,
        seconds_per_step=seconds,
        by_kind=cost.peak_kinds,
        phases=cost.phases,
        modules=tree(moments[max(cost.phases, key=lambda name: cost.phases[name])].peak),
        changes=tuple(changes),
        notes=notes,
    )


def draw(of: plan.Plan, folder: Path, path: Path) -> None:
    """Write the memory of one step of the plan as a picture (SVG)."""
    card, _ = card_of(of)
    trace = Costs(card, folder).trace(of.program)
    context = cuda.overhead(card)
    atomic.write_text(path, timeline.svg(trace, of.estimate.usable_bytes, context, of.outputs.name))


# ----------------------------------------------------------------------------------------------------------- card


def card_of(of: plan.Plan) -> tuple[Card, tuple[str, ...]]:
    """The plan's card, and in words what had to be taken for it, if it is in no table.

    A plan made with `--card auto` names the GPU that was there. Where that GPU is not here, its name, memory and
    context are the plan's own, its kernels and speeds those of the nearest card of the table.
    """
    estimate = of.estimate
    if of.program.compute.device == "cpu":
        return cards.cpu(), ()
    try:
        known = cards.find(estimate.card)
        if known.device == "cuda":
            return known, ()
    except SpecError:
        pass
    memory, usable = estimate.card_bytes, estimate.usable_bytes
    here = cards.detected()
    if here is not None and here.name == estimate.card:
        return attrs.evolve(here, memory=memory, usable=usable), ()
    near = cards.find(cards.nearest(estimate.card, estimate.card_bytes)["name"])
    context = estimate.by_kind.get("context and workspaces", cuda.overhead(near))
    multiprocessors = context // cuda.CONTEXT_PER_MULTIPROCESSOR
    card = attrs.evolve(
        near, name=estimate.card, memory=memory, usable=usable, multiprocessors=multiprocessors
    )
    note = f"{estimate.card} is not a card that lorac knows: {near.name} stands for its kernels and speed"
    return card, (note,)


# -------------------------------------------------------------------------------------------------------- modules


def tree(peak: Peak, depth: int = DEPTH) -> Node:
    """What was live at the peak, by module path down to `depth` names; small parts are summed up."""
    sizes: dict[tuple[str, ...], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for block in peak.live:
        path = tuple(block.module.split(".")[:depth]) if block.module else (UNNAMED,)
        sizes[path][block.kind] += rounded(block.bytes)
    return _node("live tensors", sizes, int(peak.bytes * LEAST_SHARE))


def _node(name: str, sizes: dict[tuple[str, ...], dict[str, int]], least: int) -> Node:
    kinds: dict[str, int] = defaultdict(int)
    below: dict[str, dict[tuple[str, ...], dict[str, int]]] = defaultdict(dict)
    for path, by_kind in sizes.items():
        for kind, count in by_kind.items():
            kinds[kind] += count
        if path:
            below[path[0]][path[1:]] = by_kind
    parts = sorted(
        (_node(part, inner, least) for part, inner in below.items()),
        key=lambda node: (-node.bytes, node.name),
    )
    shown = [part for part in parts if part.bytes >= least]
    small = [part for part in parts if part.bytes < least]
    if len(small) > 1:
        shown.append(_together(small))
    elif small:
        shown += small
    total = sum(kinds.values())
    only = len(shown) == 1 and shown[0].bytes == total
    ordered = dict(sorted(kinds.items(), key=lambda item: (-item[1], item[0])))
    if only and name != "live tensors":  # a chain of single children is one line
        return attrs.evolve(shown[0], name=f"{name}.{shown[0].name}")
    return Node(name=name, bytes=total, kinds=ordered, parts=tuple(shown))


def _together(small: list[Node]) -> Node:
    kinds: dict[str, int] = defaultdict(int)
    for node in small:
        for kind, count in node.kinds.items():
            kinds[kind] += count
    ordered = dict(sorted(kinds.items(), key=lambda item: (-item[1], item[0])))
    return Node(name=f"{len(small)} smaller", bytes=sum(kinds.values()), kinds=ordered, parts=())


# -------------------------------------------------------------------------------------------------------- changes


def variants(program: plan.Program, costs: Costs) -> Iterator[tuple[str, plan.Program, bool]]:
    """(what is changed, the program so changed, whether the same thing is trained)."""
    yield from ((*one, True) for one in batches(program))
    yield from ((*one, True) for one in recomputations(program, costs))
    yield from ((*one, True) for one in offloads(program, costs))
    if program.compute.compiled:
        yield "no block compiled", eager(program), False
    yield from ((*one, False) for one in relief.fewer_bits(program))
    adapter = program.adapter
    for rank in (adapter.rank // 2, adapter.rank * 2):
        if rank:
            yield f"rank {rank}", attrs.evolve(program, adapter=attrs.evolve(adapter, rank=rank)), False
    yield from ((*one, False) for one in resolutions(program))
    dtype: plan.Dtype = "bf16" if program.compute.dtype == "fp32" else "fp32"
    yield f"dtype {dtype}", attrs.evolve(program, compute=attrs.evolve(program.compute, dtype=dtype)), False


def batches(program: plan.Program) -> Iterator[tuple[str, plan.Program]]:
    """Micro-batch halved and doubled, at the same effective batch."""
    micro, samples = program.train.micro_batch, program.train.micro_batch * program.train.accumulation
    for wanted in (micro // 2, micro * 2):
        if wanted and samples % wanted == 0:
            train = attrs.evolve(program.train, micro_batch=wanted, accumulation=samples // wanted)
            yield f"micro-batch {wanted} × {samples // wanted}", attrs.evolve(program, train=train)


def recomputations(program: plan.Program, costs: Costs) -> Iterator[tuple[str, plan.Program]]:
    """No block recomputed, the cheapest set that saves half of what all save, all."""
    blocks = costs.exact(single(program)).blocks
    saved = [block.saved for block in blocks]
    most, least = recompute.peak(saved, ()), recompute.peak(saved, range(len(saved)))
    half = recompute.choose(saved, [block.seconds for block in blocks], (most + least) // 2) or ()
    for indices in ((), half, tuple(range(len(blocks)))):
        names = tuple(blocks[index].name for index in indices)
        if names == program.compute.checkpointed:
            continue
        words = {0: "no block", len(blocks): f"all {len(blocks)} blocks"}.get(
            len(names), f"{len(names)} blocks"
        )
        compute = attrs.evolve(program.compute, checkpointed=names)
        yield f"{words} recomputed", attrs.evolve(program, compute=compute)


def offloads(program: plan.Program, costs: Costs) -> Iterator[tuple[str, plan.Program]]:
    """No block offloaded, all; on a card, that is: a CPU's blocks would wait where they are, and split ones may not."""
    if program.compute.device == "cpu" or program.compute.sharded:
        return
    blocks = costs.blocks(program)
    for names, words in (((), "no block"), (blocks, f"all {len(blocks)} blocks")):
        if names != plan.blocks_away(program.compute):
            yield f"{words} offloaded", points.offloading(program, names)


def resolutions(program: plan.Program) -> Iterator[tuple[str, plan.Program]]:
    """Three quarters and one and a half times the resolution, to 64 pixels; or half and twice a sequence's tokens."""
    if isinstance(program.data, plan.Texts):
        for length in (program.data.length // 2, program.data.length * 2):
            data = attrs.evolve(program.data, length=length)
            yield f"sequences of {length} tokens", attrs.evolve(program, data=data)
        return
    side = program.data.resolution
    for wanted in (side * 3 // 4, side * 3 // 2):
        rounded_ = max(relief.SIDE_STEP, wanted // relief.SIDE_STEP * relief.SIDE_STEP)
        if rounded_ != side:
            yield f"resolution {rounded_}", relief.at_resolution(program, rounded_)


def changed(what: str, cost: Cost, usable: int, same: bool, pace: float) -> Change:
    """A change's figures; `pace` is the plan's seconds for each of ours."""
    return Change(
        what=what,
        peak_bytes=cost.peak_bytes,
        seconds_per_step=cost.seconds_per_step * pace,
        fits=cost.peak_bytes <= usable,
        same_result=same,
    )
