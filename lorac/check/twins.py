"""Pictures that are there twice: the same file, or nearly the same picture."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lorac.check.scan import Scan
from runtime.errors import Problem

ALIKE, APART = 6, 60
"""Photographs: bits of pHash's 64 that two copies may differ in (scaled, compressed anew, lightly cropped or
brightened), and how far apart a spot of their thumbnails may be, of 255. Measured: emoji that differ in the mouth alone
differ in 2 to 8 bits, but by 68 or more at the mouth."""

TINT, SPOT = 6.0, 32
"""Flat pictures, whose pHash a new compression turns over: the thumbnails' mean difference and the largest. Measured
on emoji: at most 4.6 and 26 for copies."""


def duplicates(scan: Scan) -> Iterator[Problem]:
    """Files that are, byte for byte, another's."""
    for name, first in copies(scan).items():
        hint = "remove one; to see a picture more often, set repeats; --fix leaves it out"
        yield Problem(scan.shown(name), f"is the same file as {first}", hint)


def near_duplicates(scan: Scan) -> Iterator[Problem]:
    """Each picture that looks like an earlier one, with the nearest of them."""
    left_out = copies(scan)
    names = [name for name in scan.pictures if name not in left_out]
    if not names:
        return
    hashes = np.stack([scan.pictures[name].hash.reshape(-1) for name in names])
    thumbnails = np.stack([scan.pictures[name].thumbnail for name in names]).astype(np.int16)
    colours = thumbnails.mean(axis=(1, 2))
    for at in range(1, len(names)):
        bits = (hashes[:at] != hashes[at]).sum(axis=1)
        # Thumbnails are as far apart as their mean colours at least: few need to be compared.
        near = (bits <= ALIKE) | (np.abs(colours[:at] - colours[at]).max(axis=1) <= 3 * TINT)
        for other in sorted(np.flatnonzero(near), key=lambda place: bits[place]):
            apart = np.abs(thumbnails[other] - thumbnails[at])
            is_alike = bits[other] <= ALIKE and apart.max() <= APART
            if is_alike or (apart.mean() <= TINT and apart.max() <= SPOT):
                what = f"looks nearly like {names[other]}"
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
