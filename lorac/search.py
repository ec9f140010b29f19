"""The fastest point that fits the card, at the user's effective batch.

What may move, in the order in which it is given up:
1. micro-batch × accumulation, at a constant product: moves freely, the result stays the same up to rounding;
2. recomputed blocks, as few as are needed: moves freely, the result stays the same;
3. rank, only inside a range the user left open, and only when nothing else makes the preferred one fit.

Costs are traced, not fitted: memory and time are affine in the micro-batch, so two traces give every micro-batch;
the chosen point is traced itself before it is believed.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from lorac import spec
from lorac.agree import batch_choices
from lorac.estimate.cost import Cost, Costs
from lorac.resolve import Resolved, preferred
from runtime import plan
from runtime.errors import MachineError, Problem
from runtime.human import clock, size


@attrs.frozen(kw_only=True)
class Fitted:
    """The chosen program with its cost, and what was looked at and not taken."""

    program: plan.Program
    cost: Cost
    decisions: tuple[plan.Decision, ...]
    rejected: tuple[plan.Rejected, ...]


def fit(resolved: Resolved, costs: Costs) -> Fitted:
    """Choose micro-batch, accumulation, recomputed blocks and, if need be, rank. Raises MachineError."""
    rejected: list[plan.Rejected] = []
    for rank in ranks(resolved.experiment.adapter.rank):
        program = with_rank(resolved, rank)
        found = fastest(resolved, program, costs, rejected)
        if found is not None:
            cost, fallbacks = costs.exact(found), fallbacks_of(resolved, found, costs)
            final = attrs.evolve(found, train=attrs.evolve(found.train, fallbacks=fallbacks))
            why = decisions(resolved, final, cost)
            return Fitted(program=final, cost=cost, decisions=why, rejected=tuple(rejected))
    raise nothing_fits(resolved, rejected)


def ranks(wanted: int | spec.Auto) -> list[int]:
    """The ranks to try: the preferred one, then smaller ones by halves down to the range's low end."""
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
    follows = isinstance(resolved.experiment.adapter.alpha, spec.Auto)
    alpha = float(rank) if follows else adapter.alpha
    return attrs.evolve(resolved.program, adapter=attrs.evolve(adapter, rank=rank, alpha=alpha))


def points(resolved: Resolved, program: plan.Program, costs: Costs) -> Iterator[plan.Program]:
    """Every point worth a look, no more than one a (micro-batch, number of recomputed blocks)."""
    pinned = resolved.experiment.fit.gradient_checkpointing
    for micro, accumulation in batch_choices(resolved.experiment.fit, program.train.effective_batch):
        train = attrs.evolve(program.train, micro_batch=micro, accumulation=accumulation)
        at = attrs.evolve(program, train=train)
        if not isinstance(pinned, spec.Auto):
            yield recomputing(at, costs.blocks(at) if pinned else ())
            continue
        for blocks in costs.block_choices(at, resolved.card.usable):
            yield recomputing(at, blocks)


def recomputing(program: plan.Program, blocks: tuple[str, ...]) -> plan.Program:
    """The program with these blocks recomputed."""
    return attrs.evolve(program, compute=attrs.evolve(program.compute, checkpointed=blocks))


def fastest(
    resolved: Resolved, program: plan.Program, costs: Costs, rejected: list[plan.Rejected]
) -> plan.Program | None:
    """The fitting point with the least predicted seconds a step; ties go to the smaller peak."""
    guessed = [(costs.quick(point), point) for point in points(resolved, program, costs)]
    guessed.sort(key=lambda pair: (pair[0].seconds_per_step, pair[0].peak_bytes, pair[1].train.micro_batch))
    for guess, point in guessed:
        if guess.peak_bytes > resolved.card.usable:
            rejected.append(reject(point, guess, resolved, "is predicted not to fit"))
            continue
        exact = costs.exact(point)
        if exact.peak_bytes <= resolved.card.usable:
            return point
        rejected.append(reject(point, exact, resolved, "does not fit when traced itself"))
    return None


def fallbacks_of(resolved: Resolved, chosen: plan.Program, costs: Costs) -> tuple[plan.Fallback, ...]:
    """Smaller micro-batches with the same blocks recomputed, largest first, for when memory runs out after all."""
    choices = batch_choices(spec.Fit(processes=chosen.train.processes), chosen.train.effective_batch)
    smaller = [pair for pair in choices if pair[0] < chosen.train.micro_batch]
    return tuple(
        plan.Fallback(
            micro_batch=micro,
            accumulation=accumulation,
            peak_bytes=costs.quick(
                attrs.evolve(
                    chosen,
                    train=attrs.evolve(chosen.train, micro_batch=micro, accumulation=accumulation),
                )
            ).peak_bytes,
        )
        for micro, accumulation in sorted(smaller, reverse=True)
    )


def reject(point: plan.Program, cost: Cost, resolved: Resolved, why: str) -> plan.Rejected:
    over = cost.peak_bytes - resolved.card.usable
    return plan.Rejected(
        point=name(point),
        peak_bytes=cost.peak_bytes,
        seconds_per_step=cost.seconds_per_step,
        reason=f"{why}: {size(over)} over",
    )


def name(program: plan.Program) -> str:
    """A point in words."""
    train, blocks = program.train, len(program.compute.checkpointed)
    recomputed = f", {blocks} blocks recomputed" if blocks else ""
    return f"rank {program.adapter.rank}, micro-batch {train.micro_batch} × {train.accumulation}{recomputed}"


def decisions(resolved: Resolved, program: plan.Program, cost: Cost) -> tuple[plan.Decision, ...]:
    """The search's part of the plan's reasons."""
    train, fit_, card = program.train, resolved.experiment.fit, resolved.card
    room = f"{size(cost.peak_bytes)} of {size(card.usable)} usable"
    pinned = not (isinstance(fit_.micro_batch, spec.Auto) and isinstance(fit_.accumulation, spec.Auto))
    batch = (
        "as the spec says"
        if pinned
        else f"fastest that fits: {clock(cost.seconds_per_step * train.steps)} in all, {room}"
    )
    wanted = resolved.experiment.adapter.rank
    rank = "as the spec says"
    if isinstance(wanted, spec.Auto):
        rank = (
            "preferred, and it fits"
            if program.adapter.rank == preferred(wanted)
            else "the preferred rank does not fit"
        )
    blocks, total = len(program.compute.checkpointed), len(cost.blocks)
    recomputed = f"{blocks} of {total} blocks" if blocks else "none"
    if not isinstance(fit_.gradient_checkpointing, spec.Auto):
        why = "as the spec says"
    else:
        why = "as few as are needed to fit" if blocks else "everything fits without"
    product = f"{train.micro_batch} × {train.accumulation}"
    product += f" × {train.processes}" if train.processes > 1 else ""
    return (
        plan.Decision(field="rank", value=str(program.adapter.rank), reason=rank),
        plan.Decision(
            field="micro-batch × accumulation", value=f"{product} = {train.effective_batch}", reason=batch
        ),
        plan.Decision(field="recomputed blocks", value=recomputed, reason=why),
    )


def nothing_fits(resolved: Resolved, rejected: list[plan.Rejected]) -> MachineError:
    """By how much the smallest point misses, and what would help."""
    least = min(rejected, key=lambda one: one.peak_bytes)
    card = resolved.card
    over = least.peak_bytes - card.usable
    what = f"nothing fits {card.name}: the smallest point ({least.point}) needs {size(least.peak_bytes)}"
    hint = f"{size(over)} too much: lower data.resolution, leave fit and rank open, or take a larger card"
    return MachineError(Problem("fit.card", f"{what} of {size(card.usable)} usable", hint))
