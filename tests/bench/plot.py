"""Benchmarks as bars: one panel a figure, one bar a trainer. Without scripts, for light and dark pages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

import attrs

WIDTH, LEFT, RIGHT = 720, 250, 110
BAR, GAP, HEAD, TOP = 16, 6, 34, 56

STYLE = """
text { font: 12px system-ui, sans-serif; fill: #222 } text.title { font-size: 15px; font-weight: 600 }
text.head { font-weight: 600 } .end { text-anchor: end } .back { fill: #fff } .peer { fill: #8d99a8 }
.lorac { fill: #c96a1b } .range { stroke: #222; stroke-width: 1.5 }
@media (prefers-color-scheme: dark) {
text { fill: #e4e4e4 } .back { fill: #16181c } .range { stroke: #e4e4e4 }
.peer { fill: #7c8794 } .lorac { fill: #e8944a } }
"""


@attrs.frozen
class Bar:
    """A trainer's figure: median of its runs, least, most."""

    name: str
    median: float
    least: float
    most: float
    is_ours: bool


@attrs.frozen
class Panel:
    """One figure of several trainers, and whether more or less of it is better."""

    title: str
    bars: tuple[Bar, ...]


def bar(way: Mapping[str, Any], figure: str, scale: float = 1.0) -> Bar:
    """A figure of a way as reports have it, times `scale`."""
    of = way[figure]
    values = (of["median"] * scale, of["min"] * scale, of["max"] * scale)
    return Bar(way["name"], *values, way["trainer"] == "lorac")


def svg(panels: Sequence[Panel], title: str) -> str:
    """The picture; panels without bars are left out."""
    panels = [panel for panel in panels if panel.bars]
    height = TOP + sum(HEAD + len(panel.bars) * (BAR + GAP) + GAP for panel in panels)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="back" width="{WIDTH}" height="{height}"/>',
        f'<text x="16" y="26" class="title">{escape(title)}</text>',
        '<text x="16" y="44">bars are medians, lines go from the least run to the most</text>',
    ]
    y = TOP
    for panel in panels:
        parts.append(f'<text x="16" y="{y + 20}" class="head">{escape(panel.title)}</text>')
        y += HEAD
        parts += lines(panel, y)
        y += len(panel.bars) * (BAR + GAP) + GAP
    return "\n".join([*parts, "</svg>"]) + "\n"


def lines(panel: Panel, y: int) -> Iterator[str]:
    """Each bar with its name, range and figure, from `y` down."""
    full = WIDTH - LEFT - RIGHT
    most = max(one.most for one in panel.bars)
    for one in panel.bars:
        middle = y + BAR / 2
        low, end, high = (round(LEFT + value / most * full, 1) for value in (one.least, one.median, one.most))
        yield f'<text x="{LEFT - 8}" y="{y + 12}" class="end">{escape(one.name)}</text>'
        kind = "lorac" if one.is_ours else "peer"
        yield f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{round(end - LEFT, 1)}" height="{BAR}"/>'
        yield f'<path class="range" d="M{low} {middle}H{high}"/>'
        yield f'<text x="{max(end, high) + 6}" y="{y + 12}">{one.median:,.4g}</text>'
        y += BAR + GAP
