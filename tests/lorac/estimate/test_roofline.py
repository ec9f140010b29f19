"""Seconds of operators, by a card's sheet and by what was measured."""

from __future__ import annotations

import math

import attrs
import pytest

from lorac.estimate import cards, roofline
from lorac.estimate.cards import Curve, Line, Measured, Probe
from lorac.estimate.record import Call, Pass

SUMS = Curve((1024, 4096, 65536), (1e-6, 2e-6, 32e-6))
MEASURED = Measured(
    threads=1,
    versions={},
    computing={"mm": {"float32": Line(1e-6, 1e-11, 1e-10), "bfloat16": Line(1e-6, 5e-12, 1e-10)}},
    moving={"add": {"float32": SUMS}, "silu": {"float32": Curve((1024,), (7e-6,))}},
    launch={"forward": 10e-6, "backward": 20e-6},
)


def call(operator: str, size: int, flops: int = 0, dtype: str = "float32", during: Pass = "forward") -> Call:
    return Call(operator, "model", during, dtype, flops, size)


def a_cpu(measured: Measured | None) -> cards.Card:
    return attrs.evolve(cards.find("12GB"), device="cpu", measured=measured, launch=1e-6)


@pytest.mark.parametrize(
    ("size", "seconds"),
    [(16, 1e-6), (1024, 1e-6), (2048, math.sqrt(2) * 1e-6), (65536, 32e-6), (131072, 64e-6)],
)
def test_a_curve_is_level_before_its_points_straight_between_and_in_proportion_after(
    size: int, seconds: float
) -> None:
    assert roofline.on_curve(SUMS, size) == pytest.approx(seconds)


def test_a_probe_of_the_same_size_moves_the_line_to_what_it_took() -> None:
    line = Line(1e-6, 1e-11, 1e-10)
    here = Probe(10**6, 10**4, 0, 0, 3 * line.at(call("mm", 10**4, 10**6)))
    far = Probe(10**10, 10**8, 0, 0, line.at(call("mm", 10**8, 10**10)))
    corrected = attrs.evolve(line, probes=(here, far))
    assert roofline.near(corrected, here) == pytest.approx(here.seconds, rel=0.01)
    assert roofline.near(corrected, far) == pytest.approx(far.seconds, rel=0.01)


def test_on_a_cpu_a_launch_comes_on_top_and_each_pass_has_its_own() -> None:
    card = a_cpu(MEASURED)
    forward, backward = call("add", 1024), call("add", 1024, during="backward")
    assert roofline.of_call(forward, card) == pytest.approx(11e-6)
    assert roofline.of_call(backward, card) == pytest.approx(21e-6)


def test_a_gpu_works_while_the_next_call_is_launched() -> None:
    card = attrs.evolve(a_cpu(MEASURED), device="cuda")
    assert roofline.of_call(call("add", 1024), card) == pytest.approx(10e-6)
    assert roofline.of_call(call("add", 65536), card) == pytest.approx(32e-6)


@pytest.mark.parametrize("operator", ["add", "add_", "_foreach_add_", "never_seen"])
def test_an_operator_in_place_or_on_lists_or_unknown_takes_what_add_does(operator: str) -> None:
    assert roofline.of_call(call(operator, 4096), a_cpu(MEASURED)) == pytest.approx(12e-6)


def test_an_operator_with_its_own_curve_follows_it() -> None:
    assert roofline.of_call(call("silu", 1024), a_cpu(MEASURED)) == pytest.approx(17e-6)


def test_arithmetic_has_the_rate_of_its_dtype_and_float32s_where_it_has_none() -> None:
    wide, half, other = (
        roofline.of_call(call("bmm", 0, 10**9, dtype), a_cpu(MEASURED))
        for dtype in ("float32", "bfloat16", "float16")
    )
    assert (wide, half) == (pytest.approx(10.011e-3), pytest.approx(5.011e-3))
    assert other == wide


def test_more_of_the_same_takes_longer_but_is_launched_once() -> None:
    card, one = a_cpu(MEASURED), call("mm", 10**4, 10**6)
    single, four = roofline.of_call(one, card), roofline.of_call(one, card, 4)
    assert single < four < 4 * single


def test_without_a_calibration_the_slower_of_arithmetic_traffic_and_launch_counts() -> None:
    card = attrs.evolve(a_cpu(None), fp32=1e9, bandwidth=1e9, launch=1e-3)
    seconds = [roofline.of_call(call("mm", *work), card) for work in ((10, 10**7), (10**8, 10), (10, 10))]
    assert seconds == [pytest.approx(1e-2), pytest.approx(1e-1), 1e-3]


def test_a_card_by_name_is_reckoned_from_its_sheet() -> None:
    card = cards.find("rtx3060")
    assert card.measured is None
    taken = roofline.of_call(call("mm", 10, 10**12), card)
    assert taken == pytest.approx(10**12 / (card.fp32 * roofline.REACHED["flops"]))
