"""The search over points, with costs from a formula: what it promises holds for any costs of that shape."""

from __future__ import annotations

from bisect import bisect_left
from functools import cache

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorac import Auto, Experiment, Fit, Images, LoRA, Train, offload, recompute, search, sharding
from lorac.estimate.cards import Card
from lorac.estimate.cost import Block, Cost, indices
from lorac.resolve import Resolved
from runtime import plan
from runtime.errors import DoesNotFit, MachineError
from runtime.families import family
from tests.lorac.plans import OUTPUTS, PROGRAM

BLOCKS = (100, 80, 60, 120, 90)
WEIGHTS = (150, 100, 250, 50, 150)
SCORES = 40
"""Bytes a sample of attention's scores in one slice."""


@attrs.frozen
class Formula:
    """Costs as `lorac.estimate.cost.Costs` gives them: weights and rank cost bytes, each sample its activations.

    A base of 1000 bytes has 700 of them in its blocks. Every slice of attention costs time.
    """

    weights: int = 1000
    slack: int = 0
    """By how much the exact cost is above the quick one; below it where negative."""
    fills_any_card: bool = False
    holds_scores: bool = False
    picture: int = 0
    """What decoding one takes, whole, beside the base."""
    link: float = 1000.0

    def quick(self, program: plan.Program) -> Cost:
        micro, rank = program.train.micro_batch, program.adapter.rank
        width, height = program.data.items[0].bucket
        sizes = [size * micro * width * height // 512**2 for size in BLOCKS]
        compute, share = program.compute, {"none": 1, "int8": 2, "nf4": 4}[program.compute.quantization]
        held = [weights // share for weights in WEIGHTS]
        blocks = tuple(
            Block(name=f"unet.{i}", saved=size, seconds=size / 1000, weights=weights)
            for i, (size, weights) in enumerate(zip(sizes, held, strict=True))
        )
        again, away = indices(blocks, compute)
        saved, seconds = [block.saved for block in blocks], [block.seconds for block in blocks]
        waiting = offload.waiting(held, seconds, away, again, self.link)
        slices = compute.attention_chunks
        micro_seconds = 0.05 * slices + micro * (1.0 + waiting) + sum(seconds[index] for index in again)
        scores = micro * SCORES // slices if self.holds_scores else 0
        moments = 2 * rank * program.train.optimizer.state_bits // 32
        freed = offload.freed(held, away)
        if compute.sharded:
            freed = sharding.freed(held, program.train.processes)
        here = self.weights - sum(WEIGHTS) + sum(held) - freed
        step = here + 2 * rank + moments + scores + recompute.peak(saved, again)
        return Cost(
            peak_bytes=max(step, here + self.picture),
            by_kind={},
            phases={"train": step, "sample": here + self.picture},
            micro_seconds=micro_seconds,
            update_seconds=0.1,
            seconds_per_step=micro_seconds * program.train.accumulation + 0.1,
            host_bytes=0,
            disk_bytes=0,
            blocks=blocks,
        )

    def exact(self, program: plan.Program) -> Cost:
        cost = self.quick(program)
        return attrs.evolve(cost, peak_bytes=cost.peak_bytes + self.slack)

    def scores_attention(self, program: plan.Program) -> bool:
        return self.holds_scores

    def blocks(self, program: plan.Program) -> tuple[str, ...]:
        return tuple(block.name for block in self.quick(program).blocks)

    def drawing(self, outputs: plan.Outputs) -> Formula:
        assert isinstance(outputs.samples, plan.Samples)
        return attrs.evolve(self, picture=self.picture // 4) if outputs.samples.tiled else self

    def on(self, card: Card) -> Formula:
        return attrs.evolve(self, weights=card.memory - 1) if self.fills_any_card else self


def card(usable: int) -> Card:
    return Card(
        name="test",
        device="cuda",
        memory=usable,
        usable=usable,
        capability=(8, 6),
        multiprocessors=1,
        bandwidth=1.0,
        fp32=1.0,
    )


@cache
def experiment(fit: Fit, rank: int | Auto, effective_batch: int) -> Experiment:
    return Experiment(
        name="x",
        base="b",
        data=Images("d"),
        adapter=LoRA(rank=rank),
        train=Train(effective_batch=effective_batch),
        fit=fit,
    )


def resolved(usable: int, fit: Fit = Fit(), rank: int | Auto = 16, effective_batch: int = 8) -> Resolved:  # noqa: B008
    train = attrs.evolve(
        PROGRAM.train,
        effective_batch=effective_batch,
        micro_batch=1,
        accumulation=effective_batch // fit.processes,
        processes=fit.processes,
    )
    return Resolved(
        experiment=experiment(fit, rank, effective_batch),
        program=attrs.evolve(PROGRAM, train=train),
        outputs=OUTPUTS,
        card=card(usable),
        decisions=(),
    )


def best(usable: int, formula: Formula = Formula(), **wishes: object) -> search.Fitted | None:
    try:
        return search.fit(resolved(usable, **wishes), formula)  # type: ignore[arg-type]
    except MachineError:
        return None


@settings(max_examples=60, deadline=None)
@given(
    st.integers(500, 8000),
    st.integers(0, 3000),
    st.sampled_from([1, 2, 6, 8, 12]),
    st.booleans(),
    st.sampled_from([0, -30]),
)
def test_more_memory_never_gives_a_slower_plan_or_a_lower_rank(
    usable: int, more: int, batch: int, scores: bool, slack: int
) -> None:
    small, large = (
        best(
            size,
            Formula(holds_scores=scores, slack=slack),
            rank=Auto(4, 32, prefer=16),
            effective_batch=batch,
        )
        for size in (usable, usable + more)
    )

    if small is not None:
        assert large is not None
        assert large.program.adapter.rank >= small.program.adapter.rank
        if large.program.adapter.rank == small.program.adapter.rank:
            assert large.cost.seconds_per_step <= small.cost.seconds_per_step


@settings(max_examples=60, deadline=None)
@given(st.integers(1000, 8000), st.integers(1, 24))
def test_the_effective_batch_is_always_kept_in_every_fallback_too(usable: int, batch: int) -> None:
    found = best(usable, effective_batch=batch)

    if found is not None:
        train = found.program.train
        assert train.micro_batch * train.accumulation * train.processes == batch
        assert all(f.micro_batch * f.accumulation * train.processes == batch for f in train.fallbacks)
        assert all(f.micro_batch < train.micro_batch for f in train.fallbacks)


@settings(max_examples=40, deadline=None)
@given(st.integers(1000, 8000), st.sampled_from([1, 2, 4, 8]), st.integers(1, 64))
def test_a_pinned_value_is_never_moved(usable: int, micro: int, rank: int) -> None:
    found = best(usable, fit=Fit(micro_batch=micro, gradient_checkpointing=False), rank=rank)

    if found is not None:
        assert (found.program.train.micro_batch, found.program.adapter.rank) == (micro, rank)
        assert found.program.compute.checkpointed == ()


@settings(max_examples=40, deadline=None)
@given(st.integers(1000, 8000))
def test_what_is_chosen_fits_and_is_chosen_again(usable: int) -> None:
    found = best(usable)

    if found is not None:
        assert found.cost.peak_bytes <= usable
        assert best(usable) == found


def test_as_few_blocks_as_are_needed_are_recomputed() -> None:
    found = best(1000 + 64 + 400, effective_batch=1)

    assert found is not None
    assert found.program.compute.checkpointed == ("unet.2",)


def test_a_point_that_does_not_fit_when_traced_is_replaced_by_one_that_does() -> None:
    guess = best(1000 + 64 + 450)
    assert guess is not None
    found = search.fit(resolved(1000 + 64 + 450), Formula(slack=60))  # type: ignore[arg-type]

    assert found.cost.peak_bytes <= 1000 + 64 + 450
    assert len(found.program.compute.checkpointed) > 0
    assert any("does not fit when traced itself" in one.reason for one in found.rejected)


def drawn(usable: int, picture: int, side: int = 1024) -> search.Fitted | None:
    """What is chosen where pictures of that many pixels are drawn."""
    asked = resolved(usable)
    base = attrs.evolve(PROGRAM.base, architecture=family("sd1").published())
    samples = attrs.evolve(OUTPUTS.samples, prompts=("a",), width=side, height=side)
    asked = attrs.evolve(
        asked,
        program=attrs.evolve(asked.program, base=base),
        outputs=attrs.evolve(OUTPUTS, samples=samples),
    )
    try:
        return search.fit(asked, Formula(picture=picture))  # type: ignore[arg-type]
    except DoesNotFit:
        return None


def test_pictures_come_in_tiles_only_where_a_whole_one_does_not_fit_beside_the_base() -> None:
    usable = 1000 + 64 + 450
    whole, tiled = drawn(usable, 500), drawn(usable, 600)

    assert whole and isinstance(whole.outputs.samples, plan.Samples) and not whole.outputs.samples.tiled
    assert tiled and isinstance(tiled.outputs.samples, plan.Samples) and tiled.outputs.samples.tiled
    assert tiled.program == whole.program
    assert "in tiles of 512 pixels" in [one.value for one in tiled.decisions]
    assert drawn(usable, 4 * 600, side=512) is None


def test_with_pictures_too_more_memory_never_gives_a_slower_plan() -> None:
    found = [drawn(usable, 600) for usable in range(700, 2500, 60)]
    seconds = [one.cost.seconds_per_step if one else float("inf") for one in found]

    assert seconds == sorted(seconds, reverse=True)
    assert len(set(seconds)) > 3


def test_of_what_takes_as_long_the_fewest_blocks_wait_in_main_memory() -> None:
    fit = Fit(gradient_checkpointing=True)
    found = best(1000 + 64 + 60, Formula(link=1e6), fit=fit, effective_batch=1)

    assert found is not None
    assert 0 < len(plan.blocks_away(found.program.compute)) < len(BLOCKS)


def test_nothing_is_refused_on_a_guess_that_is_too_high() -> None:
    least = refused(100, fit=Fit()).peak_bytes
    usable = least - 20

    assert best(usable) is None
    found = best(usable, Formula(slack=-30))
    assert found is not None
    assert found.cost.peak_bytes == least - 30 <= usable


@settings(max_examples=40, deadline=None)
@given(st.integers(900, 4000), st.integers(0, 120), st.sampled_from([1, 4, 6, 8]))
def test_the_same_plan_comes_out_on_each_run_however_wrong_the_quick_estimate_is(
    usable: int, slack: int, batch: int
) -> None:
    def ends() -> object:
        try:
            found = search.fit(resolved(usable, effective_batch=batch), Formula(slack=slack))  # type: ignore[arg-type]
        except DoesNotFit as error:
            assert error.peak_bytes > error.usable_bytes == usable
            return error.lines()
        assert found.cost.peak_bytes <= usable
        return found

    assert ends() == ends()


NO_OFFLOAD = Fit(offload="text_encoder")


def test_blocks_are_offloaded_where_it_is_faster_than_what_else_fits() -> None:
    left_open, kept = best(1000, effective_batch=1), best(1000, fit=NO_OFFLOAD, effective_batch=1)

    assert kept is None
    assert left_open is not None
    assert any(name.startswith("unet.") for name in left_open.program.compute.offloaded)
    assert left_open.decisions[-1].field == "offloaded blocks"


@settings(max_examples=40, deadline=None)
@given(st.integers(500, 8000), st.sampled_from([1, 4, 6]))
def test_what_is_pinned_to_stay_stays_and_what_is_pinned_to_wait_waits(usable: int, batch: int) -> None:
    stays = best(usable, fit=NO_OFFLOAD, effective_batch=batch)
    waits = best(usable, fit=Fit(offload="blocks"), effective_batch=batch)

    assert stays is None or not any("." in name for name in stays.program.compute.offloaded)
    assert waits is None or any("." in name for name in waits.program.compute.offloaded)


@settings(max_examples=40, deadline=None)
@given(st.integers(500, 3000), st.integers(1, 8))
def test_attention_is_sliced_only_where_it_holds_its_scores_and_as_far_as_the_spec_allows(
    usable: int, high: int
) -> None:
    fit = Fit(attention_chunks=Auto(1, high))
    sliced = best(usable, Formula(holds_scores=True), fit=fit)
    fused = best(usable, Formula(), fit=fit)

    assert sliced is None or sliced.program.compute.attention_chunks <= high
    assert fused is None or fused.program.compute.attention_chunks == 1


def test_attention_is_sliced_to_fit() -> None:
    found = best(1000 + 64 + 120 + 15, Formula(holds_scores=True), fit=NO_OFFLOAD)

    assert found is not None
    assert found.program.compute.attention_chunks > 1


FEWEST_BITS = Fit(quantization="nf4", optimizer_bits=8, offload="text_encoder")
OPEN = Fit(optimizer_bits=Auto(), quantization=Auto(), offload="text_encoder")


@pytest.mark.parametrize(
    ("usable", "bits", "quantization", "rank"),
    [
        (1184, 32, "none", 16),
        (1183, 8, "none", 16),
        (834, 32, "int8", 16),
        (833, 8, "int8", 16),
        (657, 32, "nf4", 16),
        (656, 8, "nf4", 16),
        (632, 32, "nf4", 8),
    ],
)
def test_what_changes_the_result_is_given_up_in_order(
    usable: int, bits: int, quantization: str, rank: int
) -> None:
    found = best(usable, fit=OPEN, rank=Auto(4, 16, prefer=16))

    assert found is not None
    program = found.program
    assert program.train.optimizer.state_bits == bits
    assert program.compute.quantization == quantization
    assert program.adapter.rank == rank


@settings(max_examples=40, deadline=None)
@given(st.integers(300, 2000))
def test_bits_that_the_spec_does_not_leave_open_are_never_moved(usable: int) -> None:
    found = best(usable, fit=Fit(quantization="int8"))

    if found is not None:
        assert found.program.compute.quantization == "int8"
        assert found.program.train.optimizer.state_bits == 32


def test_choices_are_tried_in_the_order_that_the_spec_gives() -> None:
    found = best(8000, fit=Fit(quantization=Auto(choices=("nf4", "none"))))

    assert found is not None
    assert found.program.compute.quantization == "nf4"


# ------------------------------------------------------------------------------------------------- nothing fits


def refused(usable: int, formula: Formula = Formula(), **wishes: object) -> DoesNotFit:
    with pytest.raises(DoesNotFit) as found:
        search.fit(resolved(usable, **wishes), formula)  # type: ignore[arg-type]
    return found.value


def test_nothing_fits_says_by_how_much_and_which_resolution_and_card_would() -> None:
    error = refused(550, fit=FEWEST_BITS)

    assert error.lines() == [
        "error: fit.card: nothing fits test: the smallest point"
        " (rank 16, nf4 base, 8-bit moments, micro-batch 1 × 8, 5 blocks recomputed) needs 633 B of 550 B usable",
        "hint: 83 B too much; what would fit: data.resolution 256, or GeForce GTX 1060 6GB (5.13 GiB usable)",
    ]
    assert (error.peak_bytes, error.usable_bytes) == (633, 550)


@pytest.mark.parametrize(
    ("usable", "change"),
    [(1170, "fit.optimizer_bits 8"), (900, 'fit.quantization "int8"'), (660, 'fit.quantization "nf4"')],
)
def test_fewer_bits_are_preferred_to_a_lower_rank(usable: int, change: str) -> None:
    assert f"what would fit: {change}, or" in refused(usable, fit=NO_OFFLOAD).lines()[1]


def test_a_lower_rank_is_preferred_to_a_lower_resolution_and_is_the_highest_that_fits() -> None:
    assert "what would fit: adapter.rank 8, or" in refused(615, fit=FEWEST_BITS).lines()[1]


def test_pins_that_do_not_change_the_result_are_let_go_first() -> None:
    error = refused(1200, fit=Fit(micro_batch=8, gradient_checkpointing=False))

    assert "what would fit: fit.micro_batch and fit.gradient_checkpointing left open, or" in error.lines()[1]


def test_splitting_the_base_is_offered_where_it_fits_and_taken_only_where_the_spec_says_so() -> None:
    open_, shard = Fit(offload="text_encoder", processes=4), Fit(processes=4, shard=True)
    least = bisect_left(range(3000), True, key=lambda usable: best(usable, fit=shard) is not None)
    found = best(least, fit=shard)

    assert found is not None
    assert found.program.compute.sharded == tuple(f"unet.{at}" for at in range(len(BLOCKS)))
    assert found.program.train.fallbacks == ()
    assert found.decisions[-1].field == "split blocks"
    assert "fit.shard over 4 processes" in refused(least, fit=open_).lines()[1]
    assert "fit.shard" not in refused(least - 1, fit=open_).lines()[1]


def test_where_neither_a_change_nor_a_card_would_do_it_says_so() -> None:
    error = refused(100, Formula(fills_any_card=True), fit=NO_OFFLOAD)

    assert error.lines()[1].startswith("hint: 1.1 KiB too much, and no known card has more")
