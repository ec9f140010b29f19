"""The fastest point that fits the card, at the user's effective batch.

What moves freely, as the result stays the same up to rounding, and the least time decides: micro-batch × accumulation
at a constant product, blocks recomputed, blocks offloaded, slices of attention. What changes the result is given up
only when nothing fits with it (`lorac.points`).

Costs are traced, not fitted: one trace ranks the points, and the chosen point is traced itself before it is believed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs

from lorac import compiled, relief, sharding, spec, tiling
from lorac.agree import batch_choices
from lorac.estimate.cost import Cost, Costs
from lorac.points import Lane, lane, points, settings
from lorac.resolve import Resolved, preferred, quantizations, state_bits
from runtime import plan, tiles
from runtime.errors import DoesNotFit, Problem
from runtime.human import clock, size

ROUNDS = 12
"""Traces that one rank may take. Each round moves a micro-batch's room by what its last trace said: few are needed."""

TOO_HIGH = 0.1
"""By how much of the memory a quick estimate may be above the traced one: 0.05 was met, of SDXL on 8 GB, as the
allocator's unused share of weights that are not there goes with them."""


@attrs.frozen(kw_only=True)
class Fitted:
    """The chosen program with its cost, and what was looked at and not taken. Its pictures may come in tiles."""

    program: plan.Program
    outputs: plan.Outputs
    cost: Cost
    fallback_bytes: tuple[int, ...]
    decisions: tuple[plan.Decision, ...]
    rejected: tuple[plan.Rejected, ...]


def fit(resolved: Resolved, costs: Costs) -> Fitted:
    """Choose all that the spec left open. Raises DoesNotFit, and SpecError for blocks that cannot be compiled."""
    resolved = compiled.as_pinned(resolved)
    rejected: list[plan.Rejected] = []
    drawing = costs
    for program in settings(resolved):
        outputs = tiling.outputs_for(resolved.outputs, program, costs, resolved.card.usable)
        drawing = costs.drawing(outputs)
        found = fastest(resolved, program, drawing, rejected)
        if found is not None:
            found, about_blocks = compiled.decide(resolved, found, drawing)
            cost, fallbacks = drawing.exact(found), fallbacks_of(found)
            final = attrs.evolve(found, train=attrs.evolve(found.train, fallbacks=fallbacks))
            return Fitted(
                program=final,
                outputs=outputs,
                cost=cost,
                fallback_bytes=tuple(
                    drawing.quick(with_fallback(found, one)).peak_bytes for one in fallbacks
                ),
                decisions=decisions(resolved, final, outputs, cost) + about_blocks,
                rejected=tuple(rejected),
            )
    raise nothing_fits(resolved, rejected, drawing)


def fastest(
    resolved: Resolved, program: plan.Program, costs: Costs, rejected: list[plan.Rejected]
) -> plan.Program | None:
    """The fitting point with the least predicted seconds a step (`rank_of`).

    Each round takes the best point by what is known and traces it. What the trace says above or below the quick
    estimate moves the room in which the blocks of that lane are chosen again; a point that fits is final
    once a round picks it again.
    """
    usable, missed = resolved.card.usable, dict[Lane, int]()
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
            return chosen or smallest_after_all(guessed, usable, costs)
        _, best = min(fitting, key=lambda pair: (*rank_of(*pair), pair[1].train.micro_batch))
        if key(best) in traced:
            break
        traced[key(best)] = exact = costs.exact(best)
        missed[lane(best)] = exact.peak_bytes - costs.quick(best).peak_bytes
        if exact.peak_bytes > usable:
            rejected.append(reject(best, exact, resolved, "does not fit when traced itself"))
        elif chosen is None or rank_of(exact, best) < rank_of(traced[key(chosen)], chosen):
            chosen = best
    rejected += [
        reject(point, cost, resolved, "is predicted not to fit")
        for cost, point in guessed
        if cost.peak_bytes > usable
    ]
    return chosen


def smallest_after_all(
    guessed: list[tuple[Cost, plan.Program]], usable: int, costs: Costs
) -> plan.Program | None:
    """The fastest of the smallest points, if it fits when traced: before all are refused on a guess."""
    guess, point = min(guessed, key=lambda pair: (pair[0].peak_bytes, *rank_of(*pair)))
    if guess.peak_bytes > usable * (1 + TOO_HIGH):
        return None
    return point if costs.exact(point).peak_bytes <= usable else None


Key = tuple[int, int, tuple[str, ...], tuple[str, ...]]


def key(point: plan.Program) -> Key:
    """What tells points apart that train the same thing."""
    compute = point.compute
    return point.train.micro_batch, compute.attention_chunks, compute.offloaded, compute.checkpointed


def rank_of(cost: Cost, point: plan.Program) -> tuple[float, int, int]:
    """What is better: less time; then fewer blocks that wait in the computer's memory, as a wait that is predicted to
    be hidden may not be; then a smaller peak."""
    return cost.seconds_per_step, len(plan.blocks_away(point.compute)), cost.peak_bytes


def corrected(guess: Cost, missed: Mapping[Lane, int], point: plan.Program) -> Cost:
    """The quick estimate, moved by what it was off in the same lane."""
    return attrs.evolve(guess, peak_bytes=guess.peak_bytes + missed.get(lane(point), 0))


def fallbacks_of(chosen: plan.Program) -> tuple[plan.Fallback, ...]:
    """Smaller micro-batches with the same blocks recomputed, largest first, for when memory runs out after all.

    None where blocks are split: a process that stops in the middle of a step leaves the others waiting for its part.
    """
    if chosen.compute.sharded:
        return ()
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
    train, compute = program.train, program.compute
    recomputed, away = len(compute.checkpointed), len(plan.blocks_away(compute))
    said = (
        (program.adapter.rank, f"rank {program.adapter.rank}"),
        (compute.quantization != "none", f"{compute.quantization} base"),
        (train.optimizer.state_bits != 32, f"{train.optimizer.state_bits}-bit moments"),
        (True, f"micro-batch {train.micro_batch} × {train.accumulation}"),
        (recomputed, f"{recomputed} blocks recomputed"),
        (away, f"{away} blocks offloaded"),
        (compute.sharded, f"blocks split among {train.processes} processes"),
        (compute.attention_chunks > 1, f"attention in {compute.attention_chunks} slices"),
        (compute.compiled, "blocks compiled"),
    )
    return ", ".join(words for holds, words in said if holds)


def decisions(
    resolved: Resolved, program: plan.Program, outputs: plan.Outputs, cost: Cost
) -> tuple[plan.Decision, ...]:
    """The search's part of the plan's reasons."""
    train, fit_, card = program.train, resolved.experiment.fit, resolved.card
    room = f"{size(cost.peak_bytes)} of {size(card.usable)} usable"
    pinned = not (isinstance(fit_.micro_batch, spec.Auto) and isinstance(fit_.accumulation, spec.Auto))
    batch = (
        "as the spec says"
        if pinned
        else f"fastest that fits: {clock(cost.seconds_in_all(train.steps))} in all, {room}"
    )
    wanted = getattr(resolved.experiment.adapter, "rank", None)
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
        *(
            []
            if wanted is None
            else [plan.Decision(field="rank", value=str(program.adapter.rank), reason=rank)]
        ),
        plan.Decision(
            field="micro-batch × accumulation", value=f"{product} = {train.effective_batch}", reason=batch
        ),
        *_how_full(program, cost),
        plan.Decision(field="recomputed blocks", value=recomputed, reason=why),
        *_where_it_waits(resolved, program, cost),
        *_in_fewer_bits(resolved.experiment, program),
        *_decoded(outputs),
    )


def _how_full(program: plan.Program, cost: Cost) -> Iterator[plan.Decision]:
    """How far the micro-batches stay below the largest, which memory is planned for."""
    found, data, shape = cost.dealt, program.data, plan.largest(program.data)
    if isinstance(data, plan.Texts) and not data.packing:
        if found is None:
            why = f"the texts are not here: seconds are those of sequences of {data.length} tokens"
            yield plan.Decision(field="padding", value="not known", reason=why)
        elif found.padding is not None:
            why = f"a micro-batch takes {found.share:.0%} of the seconds of {data.length} tokens in each sequence"
            yield plan.Decision(field="padding", value=f"{found.padding:.0%} of places", reason=why)
    elif found is not None and found.shapes > 1:
        largest = "×".join(map(str, shape[:2]))
        why = f"a micro-batch takes {found.share:.0%} of the seconds of a full one of {largest}"
        if found.micro_batches > program.train.accumulation:
            why += f", and a step has {found.micro_batches:.1f} of them, for each is of one size"
        yield plan.Decision(field="picture sizes", value=f"{found.shapes} buckets", reason=why)


def _where_it_waits(resolved: Resolved, program: plan.Program, cost: Cost) -> Iterator[plan.Decision]:
    """What is not on the card all the time, and how attention is cut."""
    compute, fit_ = program.compute, resolved.experiment.fit
    away = plan.blocks_away(compute)
    encoders = [name for name in compute.offloaded if name not in away]
    if encoders:
        drawn = bool(resolved.outputs.samples.prompts)
        until = "offloaded, back for each picture" if drawn else "dropped once the cache is made"
        why = "not used by a train step"
        yield plan.Decision(field=" and ".join(encoders).replace("_", " "), value=until, reason=why)
    if away:
        pinned = not isinstance(fit_.offload, spec.Auto)
        why = "as the spec says" if pinned else "faster than what else fits"
        why += f"; each micro-batch waits {cost.waiting_seconds:.2g} s for them"
        yield plan.Decision(
            field="offloaded blocks", value=f"{len(away)} of {len(cost.blocks)} blocks", reason=why
        )
    if compute.sharded:
        yield _split(program, cost)
    if compute.attention_chunks > 1 or not isinstance(fit_.attention_chunks, spec.Auto):
        pinned = not isinstance(fit_.attention_chunks, spec.Auto)
        why = "as the spec says" if pinned else "this card holds attention's scores, and a slice has fewer"
        yield plan.Decision(field="attention", value=f"in {compute.attention_chunks} slices", reason=why)


def _split(program: plan.Program, cost: Cost) -> plan.Decision:
    """What of the blocks is on each card."""
    processes, weights = program.train.processes, [block.weights for block in cost.blocks]
    return plan.Decision(
        field="split blocks",
        value=f"{len(weights)} of {len(cost.blocks)} blocks over {processes} processes",
        reason=f"as the spec says; each keeps {size(sharding.kept(weights, processes))} of {size(sum(weights))} and "
        f"gathers up to {size(sharding.gathered(weights))}; each micro-batch waits {cost.waiting_seconds:.2g} s",
    )


def _decoded(outputs: plan.Outputs) -> Iterator[plan.Decision]:
    """How pictures come out of the autoencoder, where that is not as ever."""
    samples = outputs.samples
    if isinstance(samples, plan.Samples) and samples.tiled:
        yield plan.Decision(
            field="pictures decoded",
            value=f"in tiles of {tiles.SIDE} pixels",
            reason="a whole one does not fit beside what training keeps on the card",
        )


def _in_fewer_bits(experiment: spec.Experiment, program: plan.Program) -> Iterator[plan.Decision]:
    """What was quantised, or was left open and was not."""
    fit_, bits = experiment.fit, state_bits(experiment)
    chosen = (
        ("base in fewer bits", fit_.quantization, program.compute.quantization, quantizations(fit_)[0]),
        ("optimizer state", fit_.optimizer_bits, program.train.optimizer.state_bits, bits[0]),
    )
    for field, wanted, taken, first in chosen:
        if isinstance(wanted, spec.Auto):
            why = "preferred, and it fits" if taken == first else f"{first} does not fit"
        elif taken in ("none", 32):
            continue
        else:
            why = "as the spec says"
        yield plan.Decision(
            field=field, value=f"{taken} bits" if field == "optimizer state" else str(taken), reason=why
        )


def nothing_fits(resolved: Resolved, rejected: list[plan.Rejected], costs: Costs) -> DoesNotFit:
    """By how much the smallest point misses, the smallest change that would make it fit, and the smallest card."""
    least = min(rejected, key=lambda one: one.peak_bytes)
    card = resolved.card
    what = f"nothing fits {card.name}: the smallest point ({least.point}) needs {size(least.peak_bytes)}"
    help_ = [
        words
        for words in (
            relief.change(resolved, costs),
            relief.more_cards(resolved, costs),
            relief.larger_card(resolved, costs),
        )
        if words
    ]
    over = f"{size(least.peak_bytes - card.usable)} too much"
    hint = (
        f"{over}; what would fit: {', or '.join(help_)}" if help_ else f"{over}, and no known card has more"
    )
    problem = Problem("fit.card", f"{what} of {size(card.usable)} usable", hint)
    return DoesNotFit(problem, peak_bytes=least.peak_bytes, usable_bytes=card.usable)
