"""The picture of predicted against measured peaks: where its dots lie, and that it is that of the rows in docs/."""

from __future__ import annotations

import json
from xml.etree import ElementTree

from tests.validate.plot import DOCS, LEFT, SIDE, TOP, Dot, Scale, Series, of_report, scale_of, svg

SVG = "{http://www.w3.org/2000/svg}"


def circles(picture: str) -> list[tuple[float, float, str, str]]:
    """(x, y, colour, words) of each dot that has words."""
    found = ElementTree.fromstring(picture).iter(f"{SVG}circle")
    titled = [(one, one.find(f"{SVG}title")) for one in found]
    return [
        (float(one.get("cx", "")), float(one.get("cy", "")), one.get("class", ""), title.text or "")
        for one, title in titled
        if title is not None
    ]


def test_docs_show_the_picture_of_their_own_rows() -> None:
    report = json.loads((DOCS / "memory.json").read_text(encoding="utf-8"))
    assert (DOCS / "memory.svg").read_text(encoding="utf-8") == svg(of_report(report))
    assert "](memory.svg)" in (DOCS / "memory.md").read_text(encoding="utf-8")


def test_an_exact_row_lies_on_the_diagonal_and_an_underestimate_below_it() -> None:
    exact, under = Dot("a", 10**8, 10**8), Dot("b", 10**9, 5 * 10**8)
    first, _, second, _ = circles(svg([Series("both", (exact, under))]))

    assert first[0] - LEFT == TOP + SIDE - first[1]
    assert second[0] - LEFT > TOP + SIDE - second[1]


def test_a_dot_says_its_run_its_figures_and_its_error_with_what_xml_forbids_escaped() -> None:
    picture = svg([Series("one", (Dot("a <b> & c", 2 * 10**9, 2_100_000_000),))])
    assert {words for *_, words in circles(picture)} == {
        "a <b> & c: measured 2 GB, predicted 2.1 GB, error +5.00%"
    }


def test_each_series_has_its_own_colour_and_every_row_a_dot_in_the_square_and_in_the_strip() -> None:
    row = {"name": "x", "gpu": "L40S", "metric": "reserved", "published": 10**10, "predicted": 10**10}
    cpu = {"name": "y", "measured": 10**7, "traced": 10**7}
    drawn = circles(svg(of_report({"published": [row, row], "cpu": [cpu]})))
    assert [colour for _, _, colour, _ in drawn] == ["s0"] * 4 + ["s1"] * 2


def test_the_axes_hold_every_figure_in_whole_decades_and_the_largest_error() -> None:
    assert scale_of([Dot("a", 2 * 10**6, 2 * 10**6), Dot("b", 3 * 10**9, 3_100_000_000)]) == Scale(
        6, 10, 0.04
    )
    assert scale_of([Dot("a", 10**9, 10**9)]) == Scale(9, 10, 0.01)
