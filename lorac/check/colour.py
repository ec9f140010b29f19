"""How a file holds its picture: what lorac brings to upright 8-bit sRGB, and other trainers drop or take wrongly."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lorac.check.scan import Picture, Scan
from runtime.errors import Problem

FIX = "save it so, or let --fix do it"


def see_through(scan: Scan) -> Iterator[Problem]:
    what = "is see-through in places, which is laid over white; other trainers lay it over black"
    return _where(
        scan, lambda one: one.file.is_see_through, what, f"lay it over the ground you want, or {FIX}"
    )


def turned(scan: Scan) -> Iterator[Problem]:
    what = "is turned by its EXIF data only; a trainer that does not read them learns it lying down"
    return _where(scan, lambda one: one.file.orientation != 1, what, f"turn the pixels, {FIX}")


def profiled(scan: Scan) -> Iterator[Problem]:
    for name, picture in scan.pictures.items():
        if picture.file.profile:
            what = (
                f"has the colour profile {picture.file.profile}; without a conversion its colours are wrong"
            )
            yield Problem(scan.shown(name), what, f"convert it to sRGB, {FIX}")


def cmyk(scan: Scan) -> Iterator[Problem]:
    return _where(
        scan,
        lambda one: one.file.mode == "CMYK",
        "is in CMYK, a printer's colours",
        f"convert it to sRGB, {FIX}",
    )


def deep(scan: Scan) -> Iterator[Problem]:
    what = "has 16 bits a channel, which some readers cut off at 255"
    return _where(scan, lambda one: one.file.bits == 16, what, f"scale it to 8 bits, {FIX}")


def grey(scan: Scan) -> Iterator[Problem]:
    """Grey pictures among coloured ones; where most are grey, that is the style."""
    found = sum(picture.is_grey for picture in scan.pictures.values())
    if 2 * found > len(scan.pictures):
        return
    what = f"is grey, as are {found} of {len(scan.pictures)} pictures: the colours learned grow pale"
    yield from _where(
        scan, lambda one: one.is_grey, what, 'say "black and white" in its caption, or leave it out'
    )


def _where(scan: Scan, is_so: Callable[[Picture], bool], what: str, hint: str) -> Iterator[Problem]:
    for name, picture in scan.pictures.items():
        if is_so(picture):
            yield Problem(scan.shown(name), what, hint)
