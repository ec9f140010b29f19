"""Pictures that are there twice: the same file, or nearly the same picture."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lorac.check.scan import Scan
from runtime.errors import Problem

ALIKE = 6
"""Bits of pHash's 64 in which two copies of a picture may differ: scaled, compressed anew, lightly cropped."""

TINT = 6.0
"""Mean difference of two thumbnails' channels, of 255, that goes with it. pHash sees no colour and little of flat
pictures."""


def duplicates(scan: Scan) -> Iterator[Problem]:
    """Files that are, byte for byte, another's."""
    for name, first in copies(scan).items():
        hint = "remove one; to see a picture more often, set repeats; --fix leaves it out"
        yield Problem(scan.shown(name), f"is the same file as {scan.shown(first)}", hint)


def near_duplicates(scan: Scan) -> Iterator[Problem]:
    """Each picture that looks like an earlier one, with the nearest of them."""
    left_out = copies(scan)
    names = [name for name in scan.pictures if name not in left_out]
    if not names:
        return
    hashes = np.stack([scan.pictures[name].hash.reshape(-1) for name in names])
    thumbnails = np.stack([scan.pictures[name].thumbnail for name in names]).astype(np.int16)
    for at in range(1, len(names)):
        bits = (hashes[:at] != hashes[at]).sum(axis=1)
        for other in sorted(np.flatnonzero(bits <= ALIKE), key=lambda place: bits[place]):
            if np.abs(thumbnails[other] - thumbnails[at]).mean() <= TINT:
                what = f"looks nearly like {scan.shown(names[other])} ({bits[other]} of 64 bits differ)"
                yield Problem(scan.shown(names[at]), what, "keep the better one")
                break


def copies(scan: Scan) -> dict[str, str]:
    """Name -> the first name with the same bytes, of all but the first."""
    first: dict[str, str] = {}
    found = {}
    for name, picture in scan.pictures.items():
        if picture.sha256 in first:
            found[name] = first[picture.sha256]
        first.setdefault(picture.sha256, name)
    return found
