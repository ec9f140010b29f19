"""The search over points, with costs from a formula: what it promises holds for any costs of that shape."""

from __future__ import annotations

from functools import cache

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorac import Auto, Experiment, Fit, Images, LoRA, Train, recompute, search
from lorac.estimate.cards import Card
from lorac.estimate.cost import Block, Cost
from lorac.resolve import Resolved
from runtime import plan
from runtime.errors import DoesNotFit, MachineError
from tests.lorac.plans import OUTPUTS, PROGRAM

BLOCKS = (100, 80, 60, 120, 90)


@attrs.frozen
class Formula:
    """Costs as `lorac.estimate.cost.Costs` gives them: weights and rank cost bytes, each sample its activations."""

    weights: int = 1000
    slack: int = 0
    """By how much the exact cost is above the quick one."""
    fills_any_card: bool = False

    def quick(self, program: plan.Program) -> Cost:
        micro, rank = program.train.micro_batch, program.adapter.rank
        width, height = program.data.items[0].bucket
        sizes = [size * micro * width * height // 512**2 for size in BLOCKS]
        blocks = tuple(Block(name=str(i), saved=size, seconds=size / 1000) for i, size in enumerate(sizes))
        again = [int(name) for name in program.compute.checkpointed]
        saved = [block.saved for block in blocks]
        micro_seconds = 0.05 + micro * 1.0 + sum(blocks[index].seconds for index in again)
        return Cost(
            peak_bytes=self.weights + 4 * rank + recompute.peak(saved, again),
            by_kind={},
            phases={},
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

    def blocks(self, program: plan.Program) -> tuple[str, ...]:
        return tuple(block.name for block in self.quick(program).blocks)

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
        PROGRAM.train, effective_batch=effective_batch, micro_batch=1, accumulation=effective_batch
    )
    return Resolved(
        experiment=experiment(fit, rank, effective_batch),
        program=attrs.evolve(PROGRAM, train=train),
        outputs=OUTPUTS,
        card=card(usable),
        decisions=(),
    )


def best(usable: int, **wishes: object) -> search.Fitted | None:
    try:
        return search.fit(resolved(usable, **wishes), Formula())  # type: ignore[arg-type]
    except MachineError:
        return None


@settings(max_examples=60, deadline=None)
@given(st.integers(1000, 8000), st.integers(0, 3000), st.sampled_from([1, 2, 6, 8, 12]))
def test_more_memory_never_gives_a_slower_plan_or_a_lower_rank(usable: int, more: int, batch: int) -> None:
    small = best(usable, rank=Auto(4, 32, prefer=16), effective_batch=batch)
    large = best(usable + more, rank=Auto(4, 32, prefer=16), effective_batch=batch)

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
    assert found.program.compute.checkpointed == ("2",)


def test_a_point_that_does_not_fit_when_traced_is_replaced_by_one_that_does() -> None:
    guess = best(1000 + 64 + 450)
    assert guess is not None
    found = search.fit(resolved(1000 + 64 + 450), Formula(slack=60))  # type: ignore[arg-type]

    assert found.cost.peak_bytes <= 1000 + 64 + 450
    assert len(found.program.compute.checkpointed) > 0
    assert any("does not fit when traced itself" in one.reason for one in found.rejected)


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


# ------------------------------------------------------------------------------------------------- nothing fits


def refused(usable: int, formula: Formula = Formula(), **wishes: object) -> DoesNotFit:
    with pytest.raises(DoesNotFit) as found:
        search.fit(resolved(usable, **wishes), formula)  # type: ignore[arg-type]
    return found.value


def test_nothing_fits_says_by_how_much_and_which_resolution_and_card_would() -> None:
    error = refused(1100)

    assert error.lines() == [
        "error: fit.card: nothing fits test: the smallest point"
        " (rank 16, micro-batch 1 × 8, 5 blocks recomputed) needs 1.2 KiB of 1.1 KiB usable",
        "hint: 84 B too much; what would fit: data.resolution 256, or GeForce GTX 1060 6GB (5.13 GiB usable)",
    ]
    assert (error.peak_bytes, error.usable_bytes) == (1184, 1100)


def test_a_lower_rank_is_preferred_to_a_lower_resolution_and_is_the_highest_that_fits() -> None:
    assert "what would fit: adapter.rank 8, or" in refused(1160).lines()[1]


def test_pins_that_do_not_change_the_result_are_let_go_first() -> None:
    error = refused(1200, fit=Fit(micro_batch=8, gradient_checkpointing=False))

    assert "what would fit: fit.micro_batch and fit.gradient_checkpointing left open, or" in error.lines()[1]


def test_where_neither_a_change_nor_a_card_would_do_it_says_so() -> None:
    error = refused(100, Formula(fills_any_card=True))

    assert error.lines()[1].startswith("hint: 1.1 KiB too much, and no known card has more")
