"""What is wrong with a data set of clips: folders of frames, or animations, as `lorac.clip_lock` takes them.

- A folder is clips where more than half of what lies in it are animations, or folders of frames of one size whose
  names number on, and nothing says that they are pictures: no captions, no still beside them, no repeat folders.
- Of a clip the frames that a plan would take are looked at; shape, borders and sharpness are its first frame's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import attrs

from lorac import buckets, clip_lock
from lorac.captions import TABLES
from lorac.check import Faults, borders, shape, sharpness
from lorac.check.scan import Picture, Progress, Scan, measured
from lorac.data_folder import CAPTIONS, REPEAT_FOLDER, VIDEOS, Folder
from lorac.spec import Images
from lorac.spec_data import GRID
from runtime import plan
from runtime.errors import InputError, Problem
from runtime.safeio import images, paths

FEWEST, USUAL = 2, 14
"""Frames of a clip; those that Stable Video Diffusion's img2vid was made for."""

FRAME = images.Described(mode="RGB", bits=8, frames=1, orientation=1, is_see_through=False, profile="")
"""How frames are taken to be held: what their files say is not looked at."""

NUMBER = re.compile(r"(\d+)$")
TO_FRAMES = "save its frames into a folder of their own: ffmpeg -i VIDEO FOLDER/%05d.png"


@attrs.frozen(kw_only=True)
class Clips:
    """`items` are the clips that a plan would take; `unusable` what keeps others from it; `still` those in which
    nothing moves. `first` has the items' first frames, by the clip's name."""

    root: Path
    found: dict[str, list[Path]]
    items: dict[str, plan.Item]
    unusable: list[Problem]
    still: tuple[str, ...]
    first: Scan

    def shown(self, name: str) -> str:
        """A clip's name as messages show it."""
        return paths.display(self.root / name)


def are_clips(root: Path) -> bool:
    """Whether a folder holds clips rather than pictures, by what lies in it."""
    try:
        found = clip_lock.clips_in(root)
    except InputError:
        return False
    stills = [path for path in root.iterdir() if path.suffix.lower() in images.SUFFIXES]
    if any(not _is_animation(path) for path in stills) or _has_captions(root):
        return False
    return 2 * sum(_is_clip(root / name, files) for name, files in found.items()) > len(found)


def scan(root: Path, resolution: int, frames: int, progress: Progress | None = None) -> Clips:
    """Look at every clip in `root`. Raises InputError where there are none."""
    found = clip_lock.clips_in(root)
    settings = Images(str(root), resolution=resolution, frames=frames)
    rule = buckets.rule_of(settings, GRID)
    items: dict[str, plan.Item] = {}
    unusable: list[Problem] = []
    still: list[str] = []
    first: dict[str, Picture] = {}
    for done, (name, files) in enumerate(found.items(), start=1):
        try:
            seen: dict[int, images.Image.Image] = {}
            items[name] = clip_lock.item(settings, rule, root, name, files, look=_keeping(seen, frames))
            first[name] = measured(FRAME, seen[0], items[name].sha256)
            still += [name] * all(frame.tobytes() == seen[0].tobytes() for frame in seen.values())
        except InputError as error:
            unusable += error.problems
        if progress:
            progress(done, len(found))
    folder = Folder(root=root, pictures={name: root / name for name in items}, others={}, bad={})
    return Clips(
        root=root,
        found=found,
        items=items,
        unusable=unusable,
        still=tuple(still),
        first=Scan(
            folder=folder,
            pictures=first,
            animations={},
            unread={},
            captions={},
            caption_problems=[],
            wrong_masks=[],
            resolution=resolution,
            trigger="",
        ),
    )


# --------------------------------------------------------------------------------------------------------- the faults


def unusable(of: Clips) -> Iterator[Problem]:
    """Clips that a plan refuses: frames that are cut off, of several sizes, too few, too small."""
    yield from of.unusable


def not_taken(of: Clips) -> Iterator[Problem]:
    """Videos, stills and folders that are no clips."""
    for entry in sorted(os.scandir(of.root), key=lambda entry: entry.name):
        suffix = Path(entry.name).suffix.lower()
        if entry.name.startswith(".") or entry.name in of.found:
            continue
        if suffix in VIDEOS:
            yield Problem(of.shown(entry.name), f"is a video ({suffix}); frames are wanted", TO_FRAMES)
        elif suffix in images.SUFFIXES:
            yield Problem(of.shown(entry.name), "is a single picture", clip_lock.GIVE)
        elif entry.is_dir():
            yield Problem(of.shown(entry.name), "is a folder without frames in it", clip_lock.GIVE)


def misordered(of: Clips) -> Iterator[Problem]:
    """Folders whose frames are numbered in another order than their names sort in, which a plan takes them in."""
    for name, files in of.found.items():
        numbers = _numbers(files)
        if numbers and numbers != sorted(numbers):
            early = next(at for at in range(1, len(numbers)) if numbers[at] < numbers[at - 1])
            what = f"takes {files[early - 1].name} before {files[early].name}: names sort as text"
            yield Problem(of.shown(name), what, "number the frames with leading zeros: 0001.png")


def motionless(of: Clips) -> Iterator[Problem]:
    for name in of.still:
        what = "does not move: its first, middle and last frame are the same picture"
        yield Problem(of.shown(name), what, "cut it to where something moves, or leave it out")


def duplicates(of: Clips) -> Iterator[Problem]:
    """Clips whose frames are, byte for byte, another's."""
    seen: dict[tuple[str, ...], str] = {}
    for name, item in of.items.items():
        assert item.clip is not None
        same = seen.setdefault(tuple(frame.sha256 for frame in item.clip.frames), name)
        if same != name:
            yield Problem(of.shown(name), f"has the same frames as {same}", "remove one")


def _of_first(look: Callable[[Scan], Iterable[Problem]], hint: str) -> Callable[[Clips], Iterable[Problem]]:
    """A check of pictures, on the clips' first frames."""
    return lambda of: (attrs.evolve(one, hint=hint) for one in look(of.first))


FAULTS: Faults[Clips] = {
    "error": {
        "unusable": unusable,
        "frame-order": misordered,
    },
    "warning": {
        "not-taken": not_taken,
        "motionless": motionless,
        "duplicate": duplicates,
        "too-small": _of_first(shape.too_small, "take a larger one, or train at a lower resolution"),
        "too-long": _of_first(shape.too_long, "crop its frames to what matters, or leave it out"),
        "border": _of_first(borders.borders, "crop all its frames alike"),
        "blurred": _of_first(sharpness.blurred, "take a sharper one, unless blur is the style"),
    },
}
"""Of a folder of clips. The closed registry."""


# ------------------------------------------------------------------------------------------------------ what is a clip


def _is_clip(place: Path, files: Sequence[Path]) -> bool:
    if not place.is_dir():
        return _is_animation(place)
    numbers = sorted(_numbers(files))
    if (
        REPEAT_FOLDER.fullmatch(place.name)
        or len(numbers) < FEWEST
        or numbers[-1] - numbers[0] != len(files) - 1
    ):
        return False
    try:
        return len({images.probe(file) for file in (files[0], files[len(files) // 2], files[-1])}) == 1
    except InputError:
        return False


def _is_animation(file: Path) -> bool:
    try:
        return bool(images.open_frames(file, FEWEST))
    except InputError:
        return False


def _numbers(files: Sequence[Path]) -> list[int]:
    """The number that each name ends in; none where one has none, or two have the same."""
    found = [int(number[1]) for file in files if (number := NUMBER.search(file.stem))]
    return found if len(found) == len(set(found)) == len(files) else []


def _has_captions(root: Path) -> bool:
    """Whether there is a table of captions, or a text beside a picture of its name."""
    for path in root.rglob("*"):
        beside = (path.with_suffix(suffix) for suffix in (*images.SUFFIXES, *clip_lock.ANIMATIONS))
        if path.name in TABLES or (path.suffix in CAPTIONS and any(one.is_file() for one in beside)):
            return True
    return False


def _keeping(seen: dict[int, images.Image.Image], count: int) -> Callable[[int, images.Image.Image], None]:
    """What keeps the first, the middle and the last of the frames that are taken, as they are decoded."""
    places = (0, count // 2, count - 1)

    def keep(place: int, frame: images.Image.Image) -> None:
        if place in places:
            seen[place] = frame

    return keep
