"""The mean micro-batch beside a full one: for any texts and pictures, and in a plan's seconds."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lorac import Base, Experiment, Fit, Images, LoRA, Text, Train
from lorac.compile import compile_experiment
from lorac.estimate import cards
from lorac.estimate.cost import Costs
from lorac.estimate.dealt import Dealt, Epoch, Micro, between, dealt, epoch, knots, resized, size
from runtime import plan
from runtime.data.order import Order, micro_batches
from tests import texts
from tests.lorac.plans import PROGRAM

LENGTH = 200
BUCKETS = ((64, 64), (64, 96), (96, 64), (128, 128))


def train(micro: int, accumulation: int, processes: int) -> plan.Train:
    return attrs.evolve(
        PROGRAM.train,
        micro_batch=micro,
        accumulation=accumulation,
        processes=processes,
        effective_batch=micro * accumulation * processes,
    )


def rows(lengths: list[int], of: plan.Train, packing: bool = False) -> plan.Program:
    file = plan.TextFile(
        path="a.jsonl",
        sha256="0" * 64,
        shape="text",
        columns={},
        weight=1.0,
        samples=len(lengths),
        trained=len(lengths),
    )
    data = plan.Texts(
        digest="0" * 64,
        files=(file,),
        expected=len(lengths),
        length=LENGTH,
        packing=packing,
        template="",
        held_out=0.0,
    )
    return attrs.evolve(PROGRAM, data=data, train=of)


def pictures(buckets: list[tuple[int, int]], of: plan.Train) -> plan.Program:
    (item,) = PROGRAM.data.items
    items = tuple(attrs.evolve(item, bucket=bucket, repeats=1) for bucket in buckets)
    return attrs.evolve(PROGRAM, data=attrs.evolve(PROGRAM.data, items=items, expected=len(items)), train=of)


def seconds(micro: Micro) -> float:
    """A launch, and more than in proportion to the size."""
    return 1.0 + micro.rows * (size(micro.shape) + size(micro.shape) ** 2 / 1000)


def mean(program: plan.Program, lengths: list[int]) -> Dealt:
    found = epoch(program, np.array(lengths))
    assert found is not None
    full = Micro(program.train.micro_batch, plan.largest(program.data))
    return dealt(found, full, program.train.processes, seconds)


trains = st.builds(train, st.integers(1, 6), st.integers(1, 3), st.integers(1, 2))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, LENGTH), min_size=1, max_size=60), trains)
def test_rows_never_take_longer_than_full_ones(lengths: list[int], of: plan.Train) -> None:
    found = mean(rows(lengths, of), lengths)

    assert 0 < found.share <= 1
    assert found.micro_batches <= of.accumulation
    assert found.padding is not None and 0 <= found.padding < 1
    assert found == mean(rows(lengths, of), lengths)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 40), trains)
def test_rows_that_are_all_as_long_as_they_may_be_take_what_full_ones_take(more: int, of: plan.Train) -> None:
    lengths = [LENGTH] * (of.effective_batch + more)

    found = mean(rows(lengths, of), lengths)

    assert (found.share, found.micro_batches, found.padding) == (1.0, of.accumulation, 0.0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, LENGTH), min_size=24, max_size=80))
def test_a_larger_micro_batch_pads_as_much_or_more(lengths: list[int]) -> None:
    found = [mean(rows(lengths, train(micro, 12 // micro, 1)), lengths).padding for micro in (1, 2, 4, 12)]

    assert found == sorted(found)  # type: ignore[type-var]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(BUCKETS), min_size=1, max_size=60), trains)
def test_pictures_never_take_longer_than_as_many_full_micro_batches(
    buckets: list[tuple[int, int]], of: plan.Train
) -> None:
    program = pictures(buckets, of)
    if epoch(program, None) is None:
        assert len(set(buckets)) == 1
        return
    found = mean(program, [])

    assert 0 < found.share <= 1
    assert found.padding is None
    assert found == mean(program, [])


def test_what_is_left_of_buckets_makes_more_micro_batches_of_fewer_pictures() -> None:
    program = pictures([BUCKETS[0]] * 3 + [BUCKETS[3]], train(4, 1, 1))

    found = mean(program, [])

    smaller, larger, full = (
        seconds(Micro(*one)) for one in ((3, (64, 64)), (1, (128, 128)), (4, (128, 128)))
    )
    assert found.micro_batches == 2
    assert found.share == pytest.approx((smaller + larger) / full / 2)


def test_a_step_takes_as_long_as_the_process_that_has_most_to_do() -> None:
    lengths = [16, 16, 200, 200]

    found = mean(rows(lengths, train(1, 2, 2)), lengths)  # dealt like cards: 16 and 200 for each

    least, most = seconds(Micro(1, (16,))), seconds(Micro(1, (200,)))
    assert found.share * found.micro_batches == pytest.approx((least + most) / most)


def test_packed_texts_and_those_that_are_not_here_are_taken_to_be_full() -> None:
    of = train(2, 2, 1)

    assert epoch(rows([10] * 9, of, packing=True), np.array([10] * 9)) is None
    assert epoch(rows([10] * 9, of), None) is None


def test_the_micro_batches_are_the_ones_that_the_runtime_deals() -> None:
    program = pictures([BUCKETS[at % 4] for at in range(37)], train(2, 3, 1))
    found = epoch(program, None)
    assert found is not None
    order = Order(program.data, program.train.seed, program.train.effective_batch)

    ours = [found.cut(step, 2) for step in found.steps]

    assert ours == [
        [Micro(len(group), group[0].bucket) for group in micro_batches(order.step(number), 2)]
        for number in range(37 // 6)
    ]


@given(st.lists(st.integers(1, LENGTH), min_size=1, max_size=30))
def test_between_traced_shapes_seconds_lie_on_lines(lengths: list[int]) -> None:
    found = epoch(rows(lengths, train(1, 1, 1)), np.array(lengths))
    assert isinstance(found, Epoch)
    at = knots(found, (LENGTH,))
    known = [seconds(Micro(1, shape)) for shape in at]

    assert {min(found.shapes), (LENGTH,)} <= set(at)
    assert [between(at, known, shape) for shape in at] == known
    for shape, larger in itertools.pairwise(sorted({*found.shapes, *at})):
        assert seconds(Micro(1, shape)) <= between(at, known, shape) * (1 + 1e-9)
        assert between(at, known, shape) < between(at, known, larger)


# ------------------------------------------------------------------------------------------------------- in plans


def full_cost(of: plan.Plan, cache: Path) -> Any:
    """What the program would cost if each micro-batch were the largest."""
    program = resized(of.program, plan.largest(of.program.data))
    return Costs(cards.find(of.estimate.card), cache, of.outputs).exact(program)


def reason(of: plan.Plan, field: str) -> str:
    return next(f"{one.value}: {one.reason}" for one in of.estimate.decisions if one.field == field)


def test_seconds_of_padded_texts_are_the_mean_and_memory_is_the_most(
    tiny_lm: Path, tmp_path: Path, cache: Path
) -> None:
    written = [{"text": f"{at:02} " * (2 + 18 * (at % 3 == 0))} for at in range(24)]
    data = (Text(str(texts.write(tmp_path / "a.jsonl", written))),)

    padded = texts.planned(tiny_lm, data, tmp_path, packing=False)
    packed = texts.planned(tiny_lm, data, tmp_path, packing=True)

    full = full_cost(padded, cache)
    assert padded.estimate.peak_bytes == full.peak_bytes
    assert padded.estimate.seconds_per_step < full.seconds_per_step
    assert padded.estimate.seconds == padded.estimate.seconds_per_step * padded.program.train.steps
    assert packed.estimate.seconds_per_step == full_cost(packed, cache).seconds_per_step
    assert "of the seconds of 128 tokens in each sequence" in reason(padded, "padding")
    assert "padding" not in {one.field for one in packed.estimate.decisions}


def test_a_plan_without_its_texts_says_that_it_takes_them_to_be_full(tiny_lm: Path, tmp_path: Path) -> None:
    there = texts.experiment(tiny_lm, (Text("not_here.jsonl"),), packing=False)

    made = compile_experiment(there, tmp_path, tmp_path, unlocked=True)

    assert reason(made, "padding") == (
        "not known: the texts are not here: seconds are those of sequences of 128 tokens"
    )


def test_seconds_of_pictures_in_buckets_are_the_mean_and_memory_is_the_most(
    tiny_base: Path, tmp_path: Path, cache: Path
) -> None:
    noise = np.random.default_rng(0)
    for number, (width, height) in enumerate([(64, 64)] * 2 + [(128, 128)] * 4):
        pixels = noise.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text("noise", encoding="utf-8")
    experiment = Experiment(
        name="mixed",
        base=Base(str(tiny_base)),
        data=Images(str(tmp_path), resolution=128, more_resolutions=(64,)),
        adapter=LoRA(rank=4),
        train=Train(effective_batch=2, epochs=1),
        fit=Fit(card="cpu", threads=1, micro_batch=2),
    )

    made = compile_experiment(experiment, tmp_path, tmp_path)

    full = full_cost(made, cache)
    saved = "saved activations"
    assert made.estimate.by_kind[saved] == full.by_kind[saved]
    assert made.estimate.seconds_per_step < full.seconds_per_step
    assert reason(made, "picture sizes").startswith("2 buckets: a micro-batch takes ")
