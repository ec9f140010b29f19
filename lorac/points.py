"""What the planner may choose among: the settings that change the result, in their order, and each one's points.

What changes the result moves only where the user left it open, and only when nothing else fits, in this order:
1. bits of the optimizer's moments (`fit.optimizer_bits=Auto()`): 32, then 8;
2. the base's quantisation (`fit.quantization=Auto()`): none, then int8, then nf4; `choices` give another order;
3. rank (`adapter.rank=Auto(low, high)`): the preferred one, then halves of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs

from lorac import offload, spec
from lorac.agree import batch_choices
from lorac.estimate.cost import Costs, choices_of
from lorac.resolve import Resolved, preferred, quantizations, state_bits
from runtime import plan

SLICES = (2, 4, 8, 16, 32, 64)
MOST_SLICES = 8
"""Where the spec gives no bound: a choice of ours, not a measurement."""

Lane = tuple[int, int, int]


def lane(point: plan.Program) -> Lane:
    """Points of which the quick estimate is wrong by about as much: micro-batch, slices, blocks offloaded."""
    compute = point.compute
    return point.train.micro_batch, compute.attention_chunks, len(plan.blocks_away(compute))


def settings(resolved: Resolved) -> Iterator[plan.Program]:
    """The program at each choice of what changes the result, the preferred one first."""
    experiment = resolved.experiment
    for rank in ranks(getattr(experiment.adapter, "rank", 0)):
        program = with_rank(resolved, rank)
        for quantization in quantizations(experiment.fit):
            for bits in state_bits(experiment):
                yield with_bits(program, quantization, bits)


def with_bits(program: plan.Program, quantization: plan.Quantization, bits: plan.StateBits) -> plan.Program:
    """The program with its base and its optimizer's moments in so many bits."""
    train, optimizer = program.train, program.train.optimizer
    if isinstance(optimizer, plan.AdamW):
        train = attrs.evolve(train, optimizer=attrs.evolve(optimizer, state_bits=bits))
    compute = attrs.evolve(program.compute, quantization=quantization)
    return attrs.evolve(program, train=train, compute=compute)


def ranks(wanted: int | spec.Auto) -> list[int]:
    """The ranks to try: the preferred one, then halves of it down to the range's low end; 0 where there is none."""
    if not isinstance(wanted, spec.Auto):
        return [wanted]
    rank, low = preferred(wanted), wanted.low or 1
    tried = [rank]
    while rank > low:
        rank = max(low, rank // 2)
        tried.append(rank)
    return tried


def with_rank(resolved: Resolved, rank: int) -> plan.Program:
    """The program at another rank; alpha follows where it was left open."""
    adapter = resolved.program.adapter
    follows = isinstance(getattr(resolved.experiment.adapter, "alpha", spec.Auto()), spec.Auto)
    alpha = float(rank) if follows else adapter.alpha
    return attrs.evolve(resolved.program, adapter=attrs.evolve(adapter, rank=rank, alpha=alpha))


def points(
    resolved: Resolved, program: plan.Program, costs: Costs, missed: Mapping[Lane, int]
) -> Iterator[plan.Program]:
    """Every point worth a look: for each micro-batch, number of attention's slices and part of the blocks offloaded,
    with no block recomputed, as few as fit, or all.

    `missed` says for a lane how many bytes the quick estimate was too low, where that is known by now.
    """
    fit_, usable = resolved.experiment.fit, resolved.card.usable
    for micro, accumulation in batch_choices(fit_, program.train.effective_batch):
        train = attrs.evolve(program.train, micro_batch=micro, accumulation=accumulation)
        for slices in slices_of(resolved, program, costs):
            compute = attrs.evolve(
                program.compute, attention_chunks=slices, sharded=split(resolved, program, costs)
            )
            for at in offloads(resolved, attrs.evolve(program, train=train, compute=compute), costs):
                room = usable - missed.get(lane(at), 0)
                for blocks in recomputations(fit_, at, costs, room):
                    yield recomputing(at, blocks)


def split(resolved: Resolved, program: plan.Program, costs: Costs) -> tuple[str, ...]:
    """The blocks whose weights are split among the processes: as the spec says, all or none; quantised ones are not."""
    wanted = resolved.experiment.fit.shard and program.compute.quantization == "none"
    return costs.blocks(program) if wanted else ()


def slices_of(resolved: Resolved, program: plan.Program, costs: Costs) -> list[int]:
    """Into how many slices attention may be cut: where the spec leaves it open, only if it holds its scores."""
    wanted = resolved.experiment.fit.attention_chunks
    if not isinstance(wanted, spec.Auto):
        return [wanted]
    low, high = int(wanted.prefer or wanted.low or 1), int(wanted.high or MOST_SLICES)
    least = attrs.evolve(program, compute=attrs.evolve(program.compute, attention_chunks=low))
    if not costs.scores_attention(least):
        return [low]
    return sorted({low, *(count for count in SLICES if low < count <= high), high if wanted.high else low})


def offloads(resolved: Resolved, program: plan.Program, costs: Costs) -> list[plan.Program]:
    """The program with no block offloaded; and, where that does not fit as it is, with parts of them offloaded."""
    may, must = offloads_blocks(resolved)
    if not may or (not must and costs.quick(program).peak_bytes <= resolved.card.usable):
        return [program]
    names = costs.blocks(program)
    parts = [tuple(names[index] for index in away) for away in offload.choices(len(names))]
    return [offloading(program, blocks) for blocks in ([] if must else [()]) + parts]


def offloads_blocks(resolved: Resolved) -> tuple[bool, bool]:
    """Whether blocks may be offloaded, and whether they must be. The CPU's own memory is where they would wait; those
    that are split wait on the other cards."""
    wanted = resolved.experiment.fit.offload
    if resolved.experiment.fit.shard:
        return False, False
    if not isinstance(wanted, spec.Auto):
        return wanted == "blocks", wanted == "blocks"
    admitted = "blocks" in wanted.choices if wanted.choices else resolved.card.device != "cpu"
    return admitted, wanted.choices == ("blocks",)


def offloading(program: plan.Program, blocks: tuple[str, ...]) -> plan.Program:
    """The program with these blocks offloaded, beside what is."""
    away = plan.blocks_away(program.compute)
    waits = tuple(name for name in program.compute.offloaded if name not in away)
    return attrs.evolve(program, compute=attrs.evolve(program.compute, offloaded=(*waits, *blocks)))


def recomputations(fit_: spec.Fit, program: plan.Program, costs: Costs, usable: int) -> list[tuple[str, ...]]:
    """Which blocks may be recomputed: as the spec pins it; or none, the cheapest set that fits `usable`, all."""
    pinned = fit_.gradient_checkpointing
    if isinstance(pinned, spec.Auto):
        return choices_of(costs.quick(program), usable)
    return [costs.blocks(program) if pinned else ()]


def recomputing(program: plan.Program, blocks: tuple[str, ...]) -> plan.Program:
    """The program with these blocks recomputed."""
    return attrs.evolve(program, compute=attrs.evolve(program.compute, checkpointed=blocks))
