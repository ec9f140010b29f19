"""Uniform bands at the edges of a picture: letterbox, pillarbox, a frame."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from runtime.errors import Problem

if TYPE_CHECKING:
    from lorac.check.scan import Scan

Band = tuple[int, int, int, int]
"""Pixels of band at the left, top, right and bottom."""

NONE: Band = (0, 0, 0, 0)

TOLERANCE = 12
"""Difference in a channel, of 255, that a JPEG's ringing makes in what was one colour."""

STRAY = 0.01
"""Share of a line's pixels that may be of another colour in a band: dust, a watermark's tip."""

STRAIGHT = 0.75
"""A band ends where at least this share of a line changes. A subject on a plain ground begins with a few pixels."""

SOFT = 3
"""Lines over which a scaled picture's edge is spread."""

THINNEST = 0.02
"""Share of the side from which on a band is one."""


def borders(scan: Scan) -> Iterator[Problem]:
    """Letterboxes and frames, which a model would learn to draw."""
    for name, picture in scan.pictures.items():
        if picture.bands != NONE:
            left, top, right, bottom = picture.bands
            what = (
                f"has a border: left {left}, top {top}, right {right}, bottom {bottom} pixels of one colour"
            )
            yield Problem(scan.shown(name), what, "crop it; --fix does where enough is left")


def bands(pixels: np.ndarray) -> Band:
    """The bands of a picture, uint8 (height, width, 3). They come in pairs: left and right, top and bottom."""
    columns = pixels.transpose(1, 0, 2)
    (left, right), (top, bottom) = _pair(columns), _pair(pixels)
    height, width, _ = pixels.shape
    if left + right >= width or top + bottom >= height:
        return NONE  # all of one colour
    is_boxed_high = bool(top) and _ends_straight(pixels[:, left : width - right], top, bottom)
    is_boxed_wide = bool(left) and _ends_straight(columns[:, top : height - bottom], left, right)
    return (left * is_boxed_wide, top * is_boxed_high, right * is_boxed_wide, bottom * is_boxed_high)


def _pair(lines: np.ndarray) -> tuple[int, int]:
    """How many lines at the start and at the end are of the first and of the last line's colour."""
    first, last = _run(lines), _run(lines[::-1])
    least = max(2, round(THINNEST * len(lines)))
    return (first, last) if min(first, last) >= least else (0, 0)


def _run(lines: np.ndarray) -> int:
    other = _differing(lines, lines) > STRAY
    return int(other.argmax()) if other.any() else len(lines)


def _ends_straight(lines: np.ndarray, first: int, last: int) -> bool:
    """Whether the picture starts, right behind both bands, over most of a line."""
    starts = _differing(lines, lines[first : first + SOFT])
    ends = _differing(lines[::-1], lines[::-1][last : last + SOFT])
    return bool(starts.max(initial=0) >= STRAIGHT and ends.max(initial=0) >= STRAIGHT)


def _differing(lines: np.ndarray, looked_at: np.ndarray) -> np.ndarray:
    """For each line that is looked at, the share of its pixels that are not of the first line's colour."""
    colour = np.median(lines[0], axis=0).astype(np.int16)
    return (np.abs(looked_at.astype(np.int16) - colour).max(axis=2) > TOLERANCE).mean(axis=1)
