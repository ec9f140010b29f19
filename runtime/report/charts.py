"""Curves as data for the page: what is drawn, where its axes end, and a path that stands without scripts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs

from runtime.human import size
from runtime.report.gather import Point

WIDTH, HEIGHT = 640, 220
MOST_POINTS = 1500
"""Points of a line at most: more are averaged in equal spans."""
SMOOTHING = 25
"""Of a noisy line: the mean over so many points around each, fewer at its ends, is drawn on top."""


@attrs.frozen
class Line:
    """One line of a chart: its points, and how it is drawn ("plain", "faint", "dotted" or "dashed")."""

    name: str
    points: tuple[Point, ...]
    style: str = "plain"


@attrs.frozen(kw_only=True)
class Chart:
    """Lines over steps. `unit` is "", "bytes" or "seconds"."""

    title: str
    about: str
    lines: tuple[Line, ...]
    unit: str = ""

    @property
    def x(self) -> tuple[float, float]:
        steps = [point.step for line in self.lines for point in line.points]
        low, high = min(steps), max(steps)
        return low, high if high > low else low + 1

    @property
    def y(self) -> tuple[float, float]:
        """The range of values, with air above and below; from 0 for bytes."""
        ends = [
            v for line in self.lines for p in line.points for v in (p.value, p.low, p.high) if v is not None
        ]
        low, high = (0.0 if self.unit == "bytes" else min(ends)), max(ends)
        air = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
        return (low if self.unit == "bytes" else max(low - air, 0.0 if low >= 0 else -math.inf)), high + air

    def colour(self, place: int) -> int:
        """The number of the colour of a line: a faint one has that of the line drawn on top of it."""
        return sum(line.style != "faint" for line in self.lines[:place])

    def path(self, line: Line) -> str:
        """The line in the chart's own coordinates, as an SVG path."""
        return "M" + "L".join(f"{self._at_x(p.step):.1f} {self._at_y(p.value):.1f}" for p in line.points)

    def bars(self, line: Line) -> list[tuple[float, float, float]]:
        """x, and the ends of the interval, for each point that has one."""
        return [
            (self._at_x(p.step), self._at_y(p.low), self._at_y(p.high))
            for p in line.points
            if p.low is not None and p.high is not None
        ]

    def dots(self, line: Line) -> list[tuple[float, float]]:
        return [(self._at_x(point.step), self._at_y(point.value)) for point in line.points]

    def data(self) -> dict[str, object]:
        """The same for the page's script, to zoom with."""
        return {
            "unit": self.unit,
            "lines": [
                {"name": line.name, "style": line.style, "points": [attrs.astuple(p) for p in line.points]}
                for line in self.lines
            ],
        }

    def ends(self) -> tuple[str, str]:
        """The words at the y axis's lower and upper end."""
        return said(self.y[0], self.unit), said(self.y[1], self.unit)

    def _at_x(self, step: float) -> float:
        low, high = self.x
        return (step - low) / (high - low) * WIDTH

    def _at_y(self, value: float) -> float:
        low, high = self.y
        return HEIGHT - (value - low) / (high - low) * HEIGHT


def said(value: float, unit: str) -> str:
    """A value at an axis."""
    if unit == "bytes":
        return size(max(0.0, value))
    return f"{value:.3g}{' s' if unit == 'seconds' else ''}"


def thinned(points: Sequence[Point]) -> tuple[Point, ...]:
    """No more than MOST_POINTS, each the mean of its span."""
    span = math.ceil(len(points) / MOST_POINTS)
    if span <= 1:
        return tuple(points)
    groups = [points[at : at + span] for at in range(0, len(points), span)]
    return tuple(Point(group[-1].step, sum(p.value for p in group) / len(group)) for group in groups)


def smooth(points: Sequence[Point]) -> tuple[Point, ...]:
    """The mean over SMOOTHING points around each; at the ends over those that there are."""
    half = SMOOTHING // 2
    sums = [0.0]
    for point in points:
        sums.append(sums[-1] + point.value)
    made = []
    for place, point in enumerate(points):
        low, high = max(0, place - half), min(len(points), place + half + 1)
        made.append(Point(point.step, (sums[high] - sums[low]) / (high - low)))
    return tuple(made)


def noisy(name: str, points: Sequence[Point]) -> tuple[Line, ...]:
    """A measured line, faint, with its mean on top."""
    return (Line(name, thinned(points), "faint"), Line(f"{name}, mean", thinned(smooth(points))))
