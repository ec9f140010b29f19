"""Files that cannot be trained on at all."""

from __future__ import annotations

from collections.abc import Iterator

from lorac.check.scan import Scan
from runtime.errors import Problem
from runtime.safeio.images import REPLACE


def unreadable(scan: Scan) -> Iterator[Problem]:
    """Pictures that are cut off, broken, or not what their suffix says."""
    yield from scan.unread.values()


def animated(scan: Scan) -> Iterator[Problem]:
    """APNG and animated WebP."""
    for name, frames in scan.animations.items():
        what = f"is an animation of {frames:,} frames; a still picture is wanted"
        yield Problem(scan.shown(name), what, f"{REPLACE}; where it is a clip to learn from: --clips")


def not_taken(scan: Scan) -> Iterator[Problem]:
    """Videos, other picture formats, links that lead nowhere."""
    yield from scan.folder.bad.values()


def wrong_masks(scan: Scan) -> Iterator[Problem]:
    """Masks that cannot be read, of another size than their picture, or of no picture."""
    yield from scan.wrong_masks
