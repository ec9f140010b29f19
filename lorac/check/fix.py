"""`lorac check DIR --fix OUT`: a cleaned copy of a folder of pictures. The original is only read.

- A picture that needs nothing is copied byte for byte; one that does is written as PNG: upright, 8-bit sRGB, what was
  see-through over white, its border cropped unless too little would be left for the resolution.
- What cannot be read, animations and all but the first of identical files are left out.
- Captions go to metadata.csv; changes.csv says what was done to each file.
- OUT appears when all of it is there.
"""

from __future__ import annotations

import csv
import io
import itertools
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import attrs

from lorac.check.borders import NONE, Band
from lorac.check.scan import Picture, Progress, Scan
from lorac.check.shape import has_bucket
from lorac.check.twins import copies
from runtime.errors import Problem, SpecError
from runtime.safeio import atomic, images, paths

GREY = ("1", "L", "LA", "I;16", "I;16B", "I")
"""Pillow's modes of grey pictures."""


@attrs.frozen
class Change:
    """What was done to one file: its name in the original, its name in the copy ("" if left out), and what."""

    file: str
    copy: str
    done: str


def check_place(root: Path, out: Path) -> None:
    """Raises SpecError where a copy at `out` would touch the original, or what lies there already."""
    real, place = root.resolve(), out.resolve()
    what = ""
    if place == real or place.is_relative_to(real) or real.is_relative_to(place):
        what = f"lies in {paths.display(root)}, or the other way round: the original is not touched"
    elif place.exists() and not (place.is_dir() and not any(place.iterdir())):
        what = "is there already"
    if what:
        raise SpecError(Problem(paths.display(out), what, "give another folder: --fix OUT"))


def fix(scan: Scan, out: Path, progress: Progress | None = None) -> list[Change]:
    """Write the cleaned copy; what was changed or left out, in the order of the names. Raises LoracError."""
    check_place(scan.folder.root, out)
    out.resolve().parent.mkdir(parents=True, exist_ok=True)
    left_out = dict(_left_out(scan))
    rows, changes, taken = [], [], set(scan.folder.pictures)
    with atomic.making_folder(out.resolve()) as folder:
        for number, name in enumerate(scan.folder.pictures, start=1):
            if name in left_out:
                changes.append(Change(name, "", f"left out: {left_out[name]}"))
            else:
                crop = _crop(scan, scan.pictures[name])
                done = list(_changes(scan.pictures[name].file, crop))
                copy = _free_name(name, taken - {name}) if done else name
                taken.add(copy)
                _write(scan.folder.pictures[name], folder / copy, crop if done else None)
                rows.append((copy, scan.captions.get(name, "")))
                changes += [Change(name, copy, "; ".join(done))] * bool(done)
            if progress:
                progress(number, len(scan.folder.pictures))
        _write_table(folder / "metadata.csv", ("image", "prompt"), rows)
        _write_table(folder / "changes.csv", ("file", "copy", "done"), map(attrs.astuple, changes))
    return changes


def _left_out(scan: Scan) -> Iterator[tuple[str, str]]:
    for name, problem in scan.unread.items():
        yield name, problem.what
    for name, frames in scan.animations.items():
        yield name, f"an animation of {frames:,} frames"
    for name, first in copies(scan).items():
        yield name, f"the same file as {first}"


def _changes(file: images.Described, crop: Band) -> Iterator[str]:
    if file.orientation != 1:
        yield "turned upright"
    if file.profile:
        yield f"converted from {file.profile} to sRGB"
    elif file.mode == "CMYK":
        yield "converted from CMYK to sRGB"
    if file.bits == 16:
        yield "scaled from 16 bits to 8"
    if file.mode in GREY:
        yield "converted from grey to RGB"
    if file.is_see_through:
        yield "laid over white"
    left, top, right, bottom = crop
    if crop != NONE:
        yield f"border cropped: left {left}, top {top}, right {right}, bottom {bottom}"


def _crop(scan: Scan, picture: Picture) -> Band:
    """The bands to cut off: none where a plan would refuse what is left as too small."""
    left, top, right, bottom = picture.bands
    width, height = picture.size
    is_large_enough = has_bucket(scan, width - left - right, height - top - bottom)
    return picture.bands if is_large_enough else NONE


def _free_name(name: str, taken: set[str]) -> str:
    """The name with .png for its suffix, or behind it where that name is taken."""
    plain = str(PurePosixPath(name).with_suffix(".png"))
    candidates = itertools.chain([plain, f"{name}.png"], (f"{name}-{n}.png" for n in itertools.count(2)))
    return next(candidate for candidate in candidates if candidate not in taken)


def _write(source: Path, target: Path, crop: Band | None) -> None:
    """The file itself, or where a crop is given, its picture without these bands."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if crop is None:
        shutil.copyfile(source, target)
        return
    left, top, right, bottom = crop
    picture = images.open_picture(source)
    picture.crop((left, top, picture.width - right, picture.height - bottom)).save(target, "PNG")


def _write_table(path: Path, header: Iterable[str], rows: Iterable[tuple[str, ...]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    atomic.write_text(path, text.getvalue())
