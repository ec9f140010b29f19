"""Predicted against measured peaks as a picture: `python -m tests.validate.plot` makes docs/memory.svg of memory.json.

Both axes are logarithmic, since the rows go from megabytes to tens of gigabytes; a row on the diagonal is predicted
to the byte. Below, the same rows with their errors, which the diagonal is too coarse to show. The pointer on a dot
shows its run, both figures and the error. Without scripts, for light and dark pages.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import attrs

DOCS = Path(__file__).parents[2] / "docs"
GB = 1e9

SIDE = 480
"""Pixels of the square that the dots lie in."""
STRIP = 150
"""Pixels of the height of the errors' strip below the square."""
GAP = 30
LEFT, RIGHT, TOP, BOTTOM = 76, 24, 64, 92
WIDTH, HEIGHT = LEFT + SIDE + RIGHT, TOP + SIDE + GAP + STRIP + BOTTOM
LEAST_ERROR = 0.01
"""The strip shows at least this much above and below zero."""
RADIUS = 4.5
LEGEND_STEP = 230
"""Pixels from one word of the legend to the next."""

STYLE = """
text { font: 12px system-ui, sans-serif; fill: #222 } text.title { font-size: 15px; font-weight: 600 }
text.quiet { fill: #666 } .end { text-anchor: end } .middle { text-anchor: middle } .back { fill: #fff }
.grid { stroke: #e2e2e2 } .exact { stroke: #888; stroke-dasharray: 6 4 } circle { fill-opacity: .7 }
.s0 { fill: #c96a1b; stroke: #c96a1b } .s1 { fill: #3a6fb0; stroke: #3a6fb0 } .s2 { fill: #3f8f5a; stroke: #3f8f5a }
@media (prefers-color-scheme: dark) {
text { fill: #e4e4e4 } text.quiet { fill: #a0a0a0 } .back { fill: #16181c } .grid { stroke: #33363c }
.s0 { fill: #e8944a; stroke: #e8944a } .s1 { fill: #6fa3e0; stroke: #6fa3e0 } .s2 { fill: #6cc08a; stroke: #6cc08a } }
"""


@attrs.frozen
class Dot:
    """One run: its words, and its peak in bytes, as measured and as predicted."""

    name: str
    measured: int
    predicted: int

    @property
    def error(self) -> float:
        return self.predicted / self.measured - 1


@attrs.frozen
class Series:
    """Dots of one colour."""

    name: str
    dots: tuple[Dot, ...]


@attrs.frozen
class Scale:
    """Whole decades of bytes, from 10^low to 10^high, over the square's side; errors up to ±`worst` in the strip."""

    low: int
    high: int
    worst: float

    def x(self, count: float) -> float:
        return round(LEFT + self._share(count) * SIDE, 1)

    def y(self, count: float) -> float:
        return round(TOP + (1 - self._share(count)) * SIDE, 1)

    def strip(self, error: float) -> float:
        return round(TOP + SIDE + GAP + STRIP / 2 * (1 - error / self.worst), 1)

    def _share(self, count: float) -> float:
        return (math.log10(count) - self.low) / (self.high - self.low)


def of_report(report: dict[str, Any]) -> list[Series]:
    """The rows of docs/memory.json."""
    published = tuple(
        Dot(f"{row['name']} ({row['gpu']}, {row['metric']})", row["published"], row["predicted"])
        for row in report["published"]
    )
    cpu = tuple(Dot(row["name"], row["measured"], row["traced"]) for row in report["cpu"])
    return [Series("published runs on GPUs", published), Series("runs on this CPU", cpu)]


def svg(series: Sequence[Series]) -> str:
    """The picture. At least one dot, all of more than no bytes."""
    scale = scale_of([dot for one in series for dot in one.dots])
    start, end = 10.0**scale.low, 10.0**scale.high
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        "<title>Predicted peak memory against measured</title>",
        f"<style>{STYLE}</style>",
        f'<rect class="back" width="{WIDTH}" height="{HEIGHT}"/>',
        text(LEFT, 26, "Peak memory, predicted against measured", "title"),
        text(LEFT, 46, "on the dashed line a prediction is exact", "quiet"),
        *axes(scale),
        *strip_axes(scale),
        f'<path class="exact" d="M{scale.x(start)} {scale.y(start)}L{scale.x(end)} {scale.y(end)}"/>',
        *(mark for number, one in enumerate(series) for mark in dots(scale, one, f"s{number}")),
        *legend(series),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def scale_of(every: Sequence[Dot]) -> Scale:
    """The decades that hold every figure."""
    figures = [count for dot in every for count in (dot.measured, dot.predicted)]
    low, high = math.floor(math.log10(min(figures))), math.ceil(math.log10(max(figures)))
    worst = max(LEAST_ERROR, *(abs(dot.error) for dot in every))
    return Scale(low, max(high, low + 1), math.ceil(worst * 100) / 100)


def axes(scale: Scale) -> Iterator[str]:
    """A line for each decade, its gigabytes at the left and, below the strip, at the bottom."""
    right, bottom = LEFT + SIDE, TOP + SIDE
    below = bottom + GAP + STRIP
    for power in range(scale.low, scale.high + 1):
        x, y, words = scale.x(10.0**power), scale.y(10.0**power), f"{10.0**power / GB:g}"
        yield f'<path class="grid" d="M{x} {TOP}V{bottom}M{x} {bottom + GAP}V{below}M{LEFT} {y}H{right}"/>'
        yield text(x, below + 18, words, "middle quiet")
        yield text(LEFT - 8, y + 4, words, "end quiet")
    yield text(LEFT + SIDE / 2, below + 40, "measured peak, GB", "middle")
    yield upright(TOP + SIDE / 2, "predicted peak, GB")


def strip_axes(scale: Scale) -> Iterator[str]:
    """Lines of the errors' strip: the largest whole percent on either side, and none at all."""
    for error in (scale.worst, 0.0, -scale.worst):
        y = scale.strip(error)
        yield f'<path class="{"grid" if error else "exact"}" d="M{LEFT} {y}H{LEFT + SIDE}"/>'
        yield text(LEFT - 8, y + 4, f"{error:+.0%}" if error else "0", "end quiet")
    yield upright(scale.strip(0.0), "error")


def dots(scale: Scale, of: Series, colour: str) -> Iterator[str]:
    """Each run as a dot in the square and one in the strip, that say what they are under the pointer."""
    for dot in of.dots:
        figures = f"measured {dot.measured / GB:.4g} GB, predicted {dot.predicted / GB:.4g} GB"
        words = escape(f"{dot.name}: {figures}, error {dot.error:+.2%}")
        x = scale.x(dot.measured)
        for y in (scale.y(dot.predicted), scale.strip(dot.error)):
            yield f'<circle class="{colour}" cx="{x}" cy="{y}" r="{RADIUS}"><title>{words}</title></circle>'


def legend(series: Sequence[Series]) -> Iterator[str]:
    """A dot and the name of each series, below the axis."""
    for number, one in enumerate(series):
        x = LEFT + 6 + number * LEGEND_STEP
        yield f'<circle class="s{number}" cx="{x}" cy="{HEIGHT - 22}" r="{RADIUS}"/>'
        yield text(x + 12, HEIGHT - 18, f"{one.name} ({len(one.dots)})")


def upright(y: float, words: str) -> str:
    """Words that go up the left side, their middle at `y`."""
    return f'<text x="20" y="{y}" class="middle" transform="rotate(-90 20 {y})">{escape(words)}</text>'


def text(x: float, y: float, words: str, names: str = "") -> str:
    return f'<text x="{x}" y="{y}" class="{names}">{escape(words)}</text>'


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--of", type=Path, default=DOCS / "memory.json", help="the rows")
    parser.add_argument("--out", type=Path, default=DOCS / "memory.svg", help="the picture")
    options = parser.parse_args()
    report = json.loads(options.of.read_text(encoding="utf-8"))
    options.out.write_text(svg(of_report(report)), encoding="utf-8")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
