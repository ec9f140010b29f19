"""The picture of one step's memory: whole, small, without scripts, and true to the recording."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorac.estimate.record import Block, Trace, rounded
from lorac.timeline import COLUMNS, LINES, moments, passes, svg, thinned, tick

MIB = 2**20


def a_trace(saved: int = 8) -> Trace:
    """A weight, `saved` activations made forward and freed backward, and one tensor of the optimizer."""
    blocks = [
        Block(4 * MIB, "base weights", "Net", "", "make", "make"),
        *(Block(MIB, "saved activations", "Net", "mm", "step", "forward") for _ in range(saved)),
        Block(2 * MIB, "temporaries", "Net", "mm", "step", "backward"),
        Block(MIB, "optimizer state", "", "mul", "step", "optimizer"),
    ]
    gradient, state = saved + 2, saved + 3
    events = [1, *range(2, saved + 2), gradient, *(-n for n in range(saved + 1, 1, -1)), -gradient, state]
    return Trace(tuple(blocks), tuple(events), ((0, "make"), (1, "step")), (), 1)


def words(picture: str) -> list[str]:
    root = ElementTree.fromstring(picture)
    return [node.text or "" for node in root.iter("{http://www.w3.org/2000/svg}text")]


def test_the_picture_names_its_peak_its_passes_and_the_cards_line() -> None:
    said = words(svg(a_trace(), usable=20 * MIB, context=MIB, name="a < b"))

    assert said[0] == "a < b: memory of one train step"
    assert "peak 15.0 MiB live" in said  # 1 context, 4 weights, 8 saved, 2 of the backward
    assert "usable 20.0 MiB" in said
    assert [word for word in said if word in ("forward", "backward", "update")] == [
        "forward",
        "backward",
        "update",
    ]


def test_a_card_far_above_is_said_not_drawn() -> None:
    said = words(svg(a_trace(), usable=2**34, context=0, name="x"))
    assert "usable 16.00 GiB, far above" in said


def test_the_picture_has_no_scripts_no_links_and_a_dark_side() -> None:
    picture = svg(a_trace(), usable=20 * MIB, context=0, name='"><script>alert(1)</script>')

    root = ElementTree.fromstring(picture)
    assert not [node for node in root.iter() if node.tag.endswith("script")]
    assert "href" not in picture
    assert "@media (prefers-color-scheme: dark)" in picture


def test_bands_sum_to_what_the_recording_says_is_live() -> None:
    trace = a_trace()
    live = dict(trace.timeline())

    for moment in moments(trace, context=7)[1:]:
        assert moment.bytes - 7 == live[moment.event - 1]
    assert moments(trace, context=7)[0].bytes == 7 + rounded(4 * MIB)


@given(st.integers(1, 3000))
def test_a_long_step_is_thinned_but_keeps_its_peak_and_its_ends(saved: int) -> None:
    every = moments(a_trace(saved), 0)
    drawn = thinned(every)

    assert len(drawn) <= COLUMNS + 2
    assert (drawn[0], drawn[-1]) == (every[0], every[-1])
    assert max(moment.bytes for moment in drawn) == max(moment.bytes for moment in every)
    assert [moment.event for moment in drawn] == sorted({moment.event for moment in drawn})


def test_passes_follow_each_other_from_the_steps_first_event_to_the_last() -> None:
    assert passes(a_trace(saved=3)) == [("forward", 1, 4), ("backward", 4, 5), ("update", 5, 10)]


@pytest.mark.parametrize(
    ("top", "step"), [(11.5 * 2**30, 2 * 2**30), (130 * 2**30, 50 * 2**30), (9 * MIB, 2 * MIB)]
)
def test_the_axis_has_round_steps(top: float, step: int) -> None:
    assert tick(top) == step
    assert top / tick(top) <= LINES
