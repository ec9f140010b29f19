"""When nothing fits a card: the smallest change to the experiment that would fit, and the smallest card that would.

Changes are tried in the order of what they cost the result: a pinned micro-batch or a pinned "recompute nothing" let
go (the result stays), then moments in 8 bits, the base in 8 or 4 bits, a lower rank, a lower resolution, each together
with the first where there are pins.
Each answer was traced at its smallest point before it is given.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from importlib.util import find_spec

import attrs

from lorac import points, spec
from lorac.agree import batch_choices
from lorac.estimate import cards, cuda
from lorac.estimate.cards import Card
from lorac.estimate.cost import Costs
from lorac.resolve import Resolved, quantizations, state_bits
from runtime import plan
from runtime.human import size

SIDE_STEP = 64
"""Pixels between two resolutions that are tried."""
LEAST_SIDE = 256
"""Pixels below which no resolution is proposed: pictures of every family here fall apart."""


def change(resolved: Resolved, costs: Costs) -> str:
    """The smallest change that would fit, in words; empty if none would."""
    freed = with_fewest_bits(unpinned(resolved))
    pins = pinned(resolved.experiment.fit)
    if pins and fits(freed, freed.program, costs):
        return f"{' and '.join(f'fit.{pin}' for pin in pins)} left open"
    too = f" with {' and '.join(f'fit.{pin}' for pin in pins)} left open" if pins else ""
    program = freed.program
    for candidates in (fewer_bits(program), lower_ranks(program), lower_resolutions(program)):
        at = bisect_left(candidates, True, key=lambda one: fits(freed, one[1], costs))
        if at < len(candidates):
            return candidates[at][0] + too
    return ""


def larger_card(resolved: Resolved, costs: Costs) -> str:
    """The card of `cards.json` with the least usable memory that the experiment would fit, in words."""
    if resolved.card.device == "cpu":
        return ""
    here = costs.exact(smallest(resolved, resolved.program, costs)).peak_bytes
    without_context = here - cuda.overhead(resolved.card)
    for card in sorted(larger_cards(resolved.card), key=lambda card: (card.usable, card.name)):
        there, costs_there = attrs.evolve(resolved, card=card), costs.on(card)
        roomy = without_context + cuda.overhead(card) <= card.usable
        if roomy and fits(there, there.program, costs_there):
            return f"{card.name} ({size(card.usable)} usable)"
    return ""


def more_cards(resolved: Resolved, costs: Costs) -> str:
    """Blocks split among the processes that are asked for, or two, where that would fit, in words."""
    fit, program = resolved.experiment.fit, resolved.program
    processes = max(2, fit.processes)
    if resolved.card.device == "cpu" or fit.shard or fit.quantization != "none" or fit.offload == "blocks":
        return ""
    split = attrs.evolve(fit, processes=processes, shard=True)  # type: ignore[misc]  # made by `lorac.parts.part`
    if not batch_choices(split, program.train.effective_batch):
        return ""
    experiment = attrs.evolve(resolved.experiment, fit=split)  # type: ignore[misc]
    program = attrs.evolve(program, train=attrs.evolve(program.train, processes=processes))
    there = attrs.evolve(resolved, experiment=experiment, program=program)
    return f"fit.shard over {processes} processes" if fits(there, program, costs) else ""


def larger_cards(card: Card) -> Iterator[Card]:
    """Known cards with more memory that compute in the same dtype."""
    for entry in cards.table():
        other = cards.find(entry["name"])
        if other.usable > card.usable and (other.bf16 is None) == (card.bf16 is None):
            yield other


def pinned(fit: spec.Fit) -> list[str]:
    """The fields that cost memory because they were pinned, though the result would be the same without."""
    held = [
        field for field in ("micro_batch", "accumulation") if not isinstance(getattr(fit, field), spec.Auto)
    ]
    return held + (["gradient_checkpointing"] if fit.gradient_checkpointing is False else [])


def unpinned(resolved: Resolved) -> Resolved:
    """The same with those fields left open."""
    free = {field: spec.Auto() for field in pinned(resolved.experiment.fit)}
    fit = attrs.evolve(resolved.experiment.fit, **free)  # type: ignore[misc]  # made by `lorac.parts.part`
    experiment = attrs.evolve(resolved.experiment, fit=fit)  # type: ignore[misc]
    return attrs.evolve(resolved, experiment=experiment)


def fewer_bits(program: plan.Program) -> list[tuple[str, plan.Program]]:
    """The optimizer's moments in 8 bits, then the base in 8 and in 4 bits, as far as they are in more."""
    found = []
    optimizer, held = program.train.optimizer, program.compute.quantization
    if isinstance(optimizer, plan.AdamW) and optimizer.state_bits == 32:
        train = attrs.evolve(program.train, optimizer=attrs.evolve(optimizer, state_bits=8))
        found.append(("fit.optimizer_bits 8", attrs.evolve(program, train=train)))
    fewer: dict[plan.Quantization, list[plan.Quantization]] = {
        "none": ["int8", "nf4"],
        "int8": ["nf4"],
        "fp8": ["nf4"],
        "nf4": [],
    }
    kinds = fewer[held]
    for kind in kinds if find_spec("bitsandbytes") else [kind for kind in kinds if kind != "nf4"]:
        compute = attrs.evolve(program.compute, quantization=kind, sharded=())
        found.append((f'fit.quantization "{kind}"', attrs.evolve(program, compute=compute)))
    return found


def with_fewest_bits(resolved: Resolved) -> Resolved:
    """The same with the last of what the spec leaves open of the base's and the moments' bits."""
    experiment = resolved.experiment
    quantization, bits = quantizations(experiment.fit)[-1], state_bits(experiment)[-1]
    program = points.with_bits(resolved.program, quantization, bits)
    return attrs.evolve(resolved, program=program)


SHORTEST = 128
"""Tokens of the shortest sequences that are offered as a way out."""


def lower_ranks(program: plan.Program) -> list[tuple[str, plan.Program]]:
    """Halves of the rank down to 1, highest first."""
    rank, found = program.adapter.rank // 2, []
    while rank:
        adapter = attrs.evolve(program.adapter, rank=rank)
        found.append((f"adapter.rank {rank}", attrs.evolve(program, adapter=adapter)))
        rank //= 2
    return found


def lower_resolutions(program: plan.Program) -> list[tuple[str, plan.Program]]:
    """The resolution in steps of 64 pixels down to 256, highest first."""
    if isinstance(program.data, plan.Texts):
        return shorter_sequences(program, program.data)
    sides = range(program.data.resolution - SIDE_STEP, LEAST_SIDE - 1, -SIDE_STEP)
    return [(f"data.resolution {side}", at_resolution(program, side)) for side in sides]


def shorter_sequences(program: plan.Program, data: plan.Texts) -> list[tuple[str, plan.Program]]:
    """Halves of the sequences' length down to 128 tokens, longest first."""
    length, found = data.length // 2, []
    while length >= SHORTEST:
        shorter = attrs.evolve(data, length=length)
        found.append((f"sequences.length {length}", attrs.evolve(program, data=shorter)))
        length //= 2
    return found


def at_resolution(program: plan.Program, side: int) -> plan.Program:
    """The program with its largest bucket scaled to another resolution (pixels): for its cost, not for training."""
    data = program.data
    assert isinstance(data, plan.Images)
    part = data.resolution * SIDE_STEP
    # Rounded up: a peak said too low would be worse than one said too high.
    width, height = (-(-length * side // part) * SIDE_STEP for length in plan.largest(data)[:2])
    items, held = (
        tuple(attrs.evolve(item, bucket=(width, height)) for item in those)
        for those in (data.items, data.held_items)
    )
    return attrs.evolve(program, data=attrs.evolve(data, items=items, held_items=held, resolution=side))


def fits(resolved: Resolved, program: plan.Program, costs: Costs) -> bool:
    """Whether the program fits the card at its smallest point, traced."""
    return costs.exact(smallest(resolved, program, costs)).peak_bytes <= resolved.card.usable


def smallest(resolved: Resolved, program: plan.Program, costs: Costs) -> plan.Program:
    """The point with the least memory: the smallest micro-batch, all blocks recomputed and offloaded, most slices.

    As far as the spec does not pin it otherwise.
    """
    fit = resolved.experiment.fit
    micro, accumulation = batch_choices(fit, program.train.effective_batch)[0]
    train = attrs.evolve(program.train, micro_batch=micro, accumulation=accumulation)
    at = attrs.evolve(program, train=train)
    may_wait, _ = points.offloads_blocks(resolved)
    blocks = costs.blocks(at)
    again = () if fit.gradient_checkpointing is False else blocks
    slices = points.slices_of(resolved, at, costs)[-1]
    at = points.offloading(points.recomputing(at, again), blocks if may_wait else ())
    split = points.split(resolved, at, costs)
    return attrs.evolve(at, compute=attrs.evolve(at.compute, attention_chunks=slices, sharded=split))
