"""The fastest point that fits the card, at the user's effective batch.

What may move, in the order in which it is given up:
1. micro-batch × accumulation, at a constant product: moves freely, the result stays the same up to rounding;
2. recomputed blocks, as few as are needed: moves freely, the result stays the same;
3. rank, only inside a range the user left open, and only when nothing else makes the preferred one fit.

Costs are traced, not fitted: one trace ranks the points, and the chosen point is traced itself before it is believed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs

from lorac import relief, spec
from lorac.agree import batch_choices
from lorac.estimate.cost import Cost, Costs, choices_of
from lorac.resolve import Resolved, preferred
from runtime import plan
from runtime.errors import DoesNotFit, Problem
from runtime.human import clock, size

ROUNDS = 12
"""Traces that one rank may take. Each round moves a micro-batch's room by what its last trace said: few are needed."""


@attrs.frozen(kw_only=True)
class Fitted:
    """The chosen program with its cost, and what was looked at and not taken."""

    program: plan.Program
    cost: Cost
    fallback_bytes: tuple[int, ...]
    decisions: tuple[plan.Decision, ...]
    rejected: tuple[plan.Rejected, ...]


def fit(resolved: Resolved, costs: Costs) -> Fitted:
    """Choose micro-batch, accumulation, recomputed blocks and, if need be, rank. Raises DoesNotFit."""
    rejected: list[plan.Rejected] = []
    for rank in ranks(resolved.experiment.adapter.rank):
        program = with_rank(resolved, rank)
        found = fastest(resolved, program, costs, rejected)
        if found is not None:
            cost, fallbacks = costs.exact(found), fallbacks_of(found)
            final = attrs.evolve(found, train=attrs.evolve(found.train, fallbacks=fallbacks))
            return Fitted(
                program=final,
                cost=cost,
                fallback_bytes=tuple(costs.quick(with_fallback(found, one)).peak_bytes for one in fallbacks),
                decisions=decisions(resolved, final, cost),
                rejected=tuple(rejected),
            )
    raise nothing_fits(resolved, rejected, costs)


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


def points(
    resolved: Resolved, program: plan.Program, costs: Costs, missed: Mapping[int, int]
) -> Iterator[plan.Program]:
    """Every point worth a look: at most three a micro-batch (no block recomputed, as few as fit, all).

    `missed` says for a micro-batch how many bytes the quick estimate was too low, where that is known by now.
    """
    pinned = resolved.experiment.fit.gradient_checkpointing
    for micro, accumulation in batch_choices(resolved.experiment.fit, program.train.effective_batch):
        train = attrs.evolve(program.train, micro_batch=micro, accumulation=accumulation)
        at = attrs.evolve(program, train=train)
        if not isinstance(pinned, spec.Auto):
            yield recomputing(at, costs.blocks(at) if pinned else ())
            continue
        for blocks in choices_of(costs.quick(at), resolved.card.usable - missed.get(micro, 0)):
            yield recomputing(at, blocks)


def recomputing(program: plan.Program, blocks: tuple[str, ...]) -> plan.Program:
    """The program with these blocks recomputed."""
    return attrs.evolve(program, compute=attrs.evolve(program.compute, checkpointed=blocks))


def fastest(
    resolved: Resolved, program: plan.Program, costs: Costs, rejected: list[plan.Rejected]
) -> plan.Program | None:
    """The fitting point with the least predicted seconds a step; ties go to the smaller peak.

    Each round takes the best point by what is known and traces it. What the trace says above or below the quick
    estimate moves the room in which the blocks of that micro-batch are chosen again; a point that fits is final
    once a round picks it again.
    """
    usable, missed = resolved.card.usable, dict[int, int]()
    traced: dict[Key, Cost] = {}
    chosen: plan.Program | None = None
    for _ in range(ROUNDS):
        pool = list(points(resolved, program, costs, missed))
        guessed = [
            (traced.get(key(point)) or corrected(costs.quick(point), missed, point), point) for point in pool
        ]
        fitting = [(cost, point) for cost, point in guessed if cost.peak_bytes <= usable]
        if not fitting:
            rejected += [reject(point, cost, resolved, "is predicted not to fit") for cost, point in guessed]
            return chosen
        _, best = min(fitting, key=lambda pair: (*rank_of(pair[0]), pair[1].train.micro_batch))
        if key(best) in traced:
            break
        traced[key(best)] = exact = costs.exact(best)
        missed[best.train.micro_batch] = exact.peak_bytes - costs.quick(best).peak_bytes
        if exact.peak_bytes > usable:
            rejected.append(reject(best, exact, resolved, "does not fit when traced itself"))
        elif chosen is None or rank_of(exact) < rank_of(traced[key(chosen)]):
            chosen = best
    rejected += [
        reject(point, cost, resolved, "is predicted not to fit")
        for cost, point in guessed
        if cost.peak_bytes > usable
    ]
    return chosen


Key = tuple[int, tuple[str, ...]]


def key(point: plan.Program) -> Key:
    """What tells points of one rank apart."""
    return point.train.micro_batch, point.compute.checkpointed


def rank_of(cost: Cost) -> tuple[float, int]:
    """What is better: less time, then less memory."""
    return cost.seconds_per_step, cost.peak_bytes


def corrected(guess: Cost, missed: Mapping[int, int], point: plan.Program) -> Cost:
    """The quick estimate, moved by what it was off at the same micro-batch."""
    return attrs.evolve(guess, peak_bytes=guess.peak_bytes + missed.get(point.train.micro_batch, 0))


def fallbacks_of(chosen: plan.Program) -> tuple[plan.Fallback, ...]:
    """Smaller micro-batches with the same blocks recomputed, largest first, for when memory runs out after all."""
    choices = batch_choices(spec.Fit(processes=chosen.train.processes), chosen.train.effective_batch)
    smaller = sorted((pair for pair in choices if pair[0] < chosen.train.micro_batch), reverse=True)
    return tuple(plan.Fallback(micro_batch=micro, accumulation=times) for micro, times in smaller)


def with_fallback(chosen: plan.Program, fallback: plan.Fallback) -> plan.Program:
    """The program as it is after stepping down."""
    train = attrs.evolve(chosen.train, micro_batch=fallback.micro_batch, accumulation=fallback.accumulation)
    return attrs.evolve(chosen, train=train)


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


def nothing_fits(resolved: Resolved, rejected: list[plan.Rejected], costs: Costs) -> DoesNotFit:
    """By how much the smallest point misses, the smallest change that would make it fit, and the smallest card."""
    least = min(rejected, key=lambda one: one.peak_bytes)
    card = resolved.card
    what = f"nothing fits {card.name}: the smallest point ({least.point}) needs {size(least.peak_bytes)}"
    help_ = [
        words for words in (relief.change(resolved, costs), relief.larger_card(resolved, costs)) if words
    ]
    over = f"{size(least.peak_bytes - card.usable)} too much"
    hint = (
        f"{over}; what would fit: {', or '.join(help_)}" if help_ else f"{over}, and no known card has more"
    )
    problem = Problem("fit.card", f"{what} of {size(card.usable)} usable", hint)
    return DoesNotFit(problem, peak_bytes=least.peak_bytes, usable_bytes=card.usable)
