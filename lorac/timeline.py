"""The memory of one train step over time, as a small SVG: self-contained, without scripts, for light and dark pages."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from html import escape

import attrs

from lorac.estimate.record import Trace, rounded
from runtime.human import size

COLUMNS = 400
"""Moments that are drawn: of the events in each, the one with the most memory."""
WIDTH, HEIGHT = 960, 420
LEFT, RIGHT, TOP, BOTTOM = 74, 24, 54, 74
GIB = 2**30

FAR = 3
"""Times the peak: a usable line above that is not drawn, since the step would be a streak at the bottom."""
HEADROOM = 1.08
"""Of the highest thing drawn."""
LINES = 6
"""Lines of the axis at most."""
NAME_ROOM = 70
"""Pixels that a pass's name needs to stand in its middle."""

STATE = "adapter and optimizer"
BANDS = ("context", "base weights", STATE, "saved activations", "temporaries")
"""From below, as stacked."""
BAND_OF = {
    "base weights": "base weights",
    "saved activations": "saved activations",
    "temporaries": "temporaries",
    "inputs": "temporaries",
}
"""Kind -> band; every other kind is the adapter's own state."""
LIGHT = ("#8c8c8c", "#4878a8", "#8a6bb1", "#d98a3d", "#5a9e6f")
DARK = ("#7a7a7a", "#5f8fc4", "#ab8fd0", "#d9954f", "#6db383")

INK = """
text { font: 12px system-ui, sans-serif; fill: #222 } text.title { font-size: 15px; font-weight: 600 }
text.quiet { fill: #666 } .end { text-anchor: end } .middle { text-anchor: middle }
.back { fill: #fff } .axis { stroke: #ddd } .span { stroke: #444; stroke-dasharray: 2 4 }
.usable { stroke: #c0392b; stroke-width: 1.5; stroke-dasharray: 7 4 } text.usable-word { fill: #c0392b }
.dot { fill: #222 }
"""
INK_DARK = """
text { fill: #e4e4e4 } text.quiet { fill: #a0a0a0 } .back { fill: #16181c } .axis { stroke: #333 }
.span { stroke: #bbb } .usable { stroke: #ff7b6b } text.usable-word { fill: #ff7b6b } .dot { fill: #eee }
"""


@attrs.frozen
class Moment:
    """Bytes by band after an event."""

    event: int
    bands: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return sum(self.bands)


@attrs.frozen
class Canvas:
    """Where an event and a number of bytes lie in the picture. `first` and `last` are events, `top` bytes."""

    first: int
    last: int
    top: float

    def x(self, event: float) -> float:
        share = (event - self.first) / max(1, self.last - self.first)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def y(self, count: float) -> float:
        return round(HEIGHT - BOTTOM - count / self.top * (HEIGHT - TOP - BOTTOM), 1)


def svg(trace: Trace, usable: int, context: int, name: str) -> str:
    """Live bytes over the events of the step after `make`, stacked by kind, under the card's usable line.

    `usable` and `context` in bytes; the context is drawn at the bottom, below what the step makes.
    """
    every = moments(trace, context)
    peak = max(every, key=lambda moment: moment.bytes)
    near = usable < FAR * peak.bytes
    canvas = Canvas(every[0].event, every[-1].event, HEADROOM * max(usable if near else 0, peak.bytes))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>Memory of one train step of {escape(name)}</title>",
        f"<style>{style()}</style>",
        f'<rect class="back" width="{WIDTH}" height="{HEIGHT}"/>',
        text(LEFT, 24, f"{name}: memory of one train step", "title"),
        *axis(canvas),
        *areas(canvas, thinned(every)),
        *spans(canvas, passes(trace)),
        *peak_mark(canvas, peak),
        *(usable_line(canvas, usable) if near else [beyond(usable)]),
        *legend(),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


# ------------------------------------------------------------------------------------------------------ the step


def moments(trace: Trace, context: int) -> list[Moment]:
    """Live bytes by band after each event of the step, the state before it first."""
    start = next(at for at, phase in trace.marks if phase != "make")
    bands = [context] + [0] * (len(BANDS) - 1)
    found = []
    for number, event in enumerate(trace.events):
        if number == start:
            found.append(Moment(number, tuple(bands)))
        block = trace.blocks[abs(event) - 1]
        if block.place == "card":
            band = BANDS.index(BAND_OF.get(block.kind, STATE))
            bands[band] += rounded(block.bytes) if event > 0 else -rounded(block.bytes)
        if number >= start:
            found.append(Moment(number + 1, tuple(bands)))
    return found


def thinned(every: Sequence[Moment]) -> list[Moment]:
    """The first and last moment, and of each stretch between them the one with the most memory."""
    stretch = max(1, -(-len(every) // COLUMNS))
    tops = [
        max(every[at : at + stretch], key=lambda moment: moment.bytes) for at in range(0, len(every), stretch)
    ]
    return sorted({moment.event: moment for moment in (every[0], *tops, every[-1])}.values(), key=event_of)


def event_of(moment: Moment) -> int:
    return moment.event


def passes(trace: Trace) -> list[tuple[str, int, int]]:
    """(name, first event, last event) of forward, backward, and what follows: clipping and the optimizer."""
    start = next(at for at, phase in trace.marks if phase != "make")
    backward = [
        number
        for number, event in enumerate(trace.events)
        if number >= start and event > 0 and trace.blocks[event - 1].born in ("backward", "recompute")
    ]
    end = len(trace.events)
    if not backward:
        return [("forward", start, end)]
    first, last = backward[0], backward[-1] + 1
    return [("forward", start, first), ("backward", first, last), ("update", last, end)]


# --------------------------------------------------------------------------------------------------- the picture


def style() -> str:
    """The style sheet, with a band's colour in light and dark."""
    bands = [[f".b{at} {{ fill: {colour} }}" for at, colour in enumerate(of)] for of in (LIGHT, DARK)]
    return f"{INK}{' '.join(bands[0])}\n@media (prefers-color-scheme: dark) {{{INK_DARK}{' '.join(bands[1])} }}\n"


def text(x: float, y: float, words: str, names: str = "") -> str:
    return f'<text x="{x}" y="{y}" class="{names}">{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, name: str) -> str:
    return f'<path class="{name}" d="M{x1} {y1}L{x2} {y2}"/>'


def axis(canvas: Canvas) -> Iterator[str]:
    """Round numbers of bytes up the left side."""
    unit = tick(canvas.top)
    for number in range(int(canvas.top / unit) + 1):
        y = canvas.y(number * unit)
        yield line(LEFT, y, WIDTH - RIGHT, y, "axis")
        yield text(LEFT - 8, y + 4, size(number * unit) if number else "0", "end quiet")


def tick(top: float) -> int:
    """Bytes between two lines: 1, 2, 5, 10 … GiB (MiB, KiB for a small step), so that at most six are drawn."""
    unit = GIB if top >= 2 * GIB else 2**20 if top >= 2**21 else 2**10
    steps = (digit * 10**power for power in itertools.count() for digit in (1, 2, 5))
    return unit * next(step for step in steps if top / unit / step <= LINES)


def areas(canvas: Canvas, drawn: Sequence[Moment]) -> Iterator[str]:
    """A filled band for each kind, each on top of the one before."""
    low = [0] * len(drawn)
    for band in range(len(BANDS)):
        high = [base + moment.bands[band] for base, moment in zip(low, drawn, strict=True)]
        upper = [f"{canvas.x(m.event)} {canvas.y(count)}" for m, count in zip(drawn, high, strict=True)]
        lower = [f"{canvas.x(m.event)} {canvas.y(count)}" for m, count in zip(drawn, low, strict=True)]
        yield f'<path class="b{band}" d="M{"L".join([*upper, *reversed(lower)])}Z"/>'
        low = high


def spans(canvas: Canvas, found: Sequence[tuple[str, int, int]]) -> Iterator[str]:
    """The passes' names below, a dotted line between them."""
    for name, first, last in found:
        left, right = canvas.x(first), canvas.x(last)
        if first != canvas.first:
            yield line(left, TOP, left, HEIGHT - BOTTOM + 6, "span")
        room = right - left >= NAME_ROOM
        x = (left + right) / 2 if room else right
        yield text(round(x, 1), HEIGHT - BOTTOM + 20, name, "middle" if room else "end")


def peak_mark(canvas: Canvas, peak: Moment) -> Iterator[str]:
    """A dot at the peak with its size, on the side that has room."""
    x, y = canvas.x(peak.event), canvas.y(peak.bytes)
    yield f'<circle class="dot" cx="{x}" cy="{y}" r="3.5"/>'
    is_left = x > WIDTH * 0.7
    yield text(x - 8 if is_left else x + 8, y - 6, f"peak {size(peak.bytes)} live", "end" if is_left else "")


def usable_line(canvas: Canvas, usable: int) -> Iterator[str]:
    """What the card lets a step use."""
    y = canvas.y(usable)
    yield line(LEFT, y, WIDTH - RIGHT, y, "usable")
    yield text(WIDTH - RIGHT, y - 6, usable_words(usable), "end usable-word")


def beyond(usable: int) -> str:
    """The same in words, where the line would lie far above all that is drawn."""
    return text(WIDTH - RIGHT, 24, f"{usable_words(usable)}, far above", "end usable-word")


def usable_words(usable: int) -> str:
    return f"usable {size(usable)}"


def legend() -> Iterator[str]:
    """The bands' colours and names in a row at the bottom."""
    x = float(LEFT)
    for band, name in enumerate(BANDS):
        yield f'<rect class="b{band}" x="{x}" y="{HEIGHT - 27}" width="11" height="11"/>'
        yield text(x + 16, HEIGHT - 17, name)
        x += 16 + 7 * len(name) + 22
