"""The data lock of clips: a folder of frames each, in the order of their names, or an animated GIF, PNG or WebP each.

- A clip is its first `data.frames` frames; one with fewer is told, as is one whose frames differ in size.
- The lock is a function of the files' contents and names, as that of pictures (`lorac.data_lock`): every frame is
  decoded once, and all problems are told at once.
- Clips are told nothing in words: they have no captions.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lorac import buckets
from lorac.parts import where
from lorac.places import cache_folder
from lorac.spec import Experiment, Images
from runtime import plan
from runtime.errors import InputError, Problem, SpecError
from runtime.safeio import digest, paths, strict_json
from runtime.safeio import images as pictures

ANIMATIONS = (".gif", ".png", ".apng", ".webp")

GIVE = "give a folder that holds a folder of frames, or an animated GIF, PNG or WebP, for each clip"


ASSUMED_CLIPS = 100


def settled(
    experiment: Experiment, images: Images, of: Any, path: Path, unlocked: bool
) -> tuple[plan.Images, tuple[plan.Decision, ...], bool, Path]:
    """As `resolve` settles pictures: the clips, no notes, whether they are locked, and their folder. Where it is
    elsewhere, and may be, so many are assumed.

    `of` is the base's family. Raises SpecError where it learns from pictures and is given clips, or the reverse.
    """
    if (of.KIND == "clips") != (images.frames > 1):
        takes = (
            "clips: data.frames must be above 1" if of.KIND == "clips" else "pictures: data.frames must be 1"
        )
        place = where(images, "frames") or "data.frames"
        raise SpecError(Problem(place, f"a {of.TITLE} learns from {takes}"))
    if unlocked and not path.exists():
        return assume(images, of.GRID, ASSUMED_CLIPS), (), False, path
    return lock(images, path, of.GRID, cache_folder(), experiment.samples), (), True, path


def lock(
    images: Images, folder: Path, grid: int, cache: Path | None = None, samples: Any = None
) -> plan.Images:
    """Lock a folder of clips, which `samples` name. `cache` keeps files' digests between plans.

    Raises one InputError with all problems, or SpecError for samples of no clip and if the spec's resolution leaves no
    bucket.
    """
    rule = buckets.rule_of(images, grid)
    found = clips_in(folder)
    items, problems = [], []
    sha256_files = digest.DigestCache(cache).sha256_files if cache else digest.sha256_files
    for name, files in found.items():
        try:
            items.append(item(images, rule, folder, name, files, sha256_files))
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    unknown = [prompt for prompt in samples.prompts if prompt not in found] if samples else []
    if unknown:
        hint = (
            f"a sample goes on from a clip's first frame: name clips of the data, such as {next(iter(found))}"
        )
        place = where(samples, "prompts") or "samples.prompts"
        raise SpecError(Problem(place, f"there is no clip {name!r}", hint) for name in unknown)
    return _images(images, tuple(items), len(items) * images.repeats)


def assume(images: Images, grid: int, usual: int) -> plan.Images:
    """The same of clips that are elsewhere, `usual` of them if the spec does not say: no items. Raises SpecError."""
    buckets.rule_of(images, grid)
    count = images.expected_images if isinstance(images.expected_images, int) else usual
    return _images(images, (), count * images.repeats)


def _images(images: Images, items: tuple[plan.Item, ...], expected: int) -> plan.Images:
    if images.caption_dropout:
        place = where(images, "caption_dropout") or "data.caption_dropout"
        raise SpecError(Problem(place, "data.caption_dropout: clips have no captions", "leave it out"))
    text = strict_json.canonical([plan.unstructure(item) for item in items])
    return plan.Images(
        kind="clips",
        digest=hashlib.sha256(text.encode()).hexdigest() if items else "",
        items=items,
        expected=expected,
        resolution=images.resolution,
        flip=images.flip,
        caption_dropout=0.0,
        frames=images.frames,
    )


def clips_in(root: Path) -> dict[str, list[Path]]:
    """Each clip's name and its files: the frames of a folder, or the one that holds them all. Raises InputError where
    there are none."""
    if not root.is_dir():
        raise InputError(Problem(paths.display(root), "is no folder", GIVE))
    found = dict(_clips(root))
    if not found:
        raise InputError(Problem(paths.display(root), "has no clips", GIVE))
    return found


def _clips(root: Path) -> Iterator[tuple[str, list[Path]]]:
    for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
        path = Path(entry.path)
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            stills = sorted(one for one in path.iterdir() if one.suffix.lower() in pictures.SUFFIXES)
            if stills:
                yield paths.relative_name(root, path), stills
        elif path.suffix.lower() in ANIMATIONS:
            yield paths.relative_name(root, path), [path]


def item(
    images: Images,
    rule: buckets.Rule,
    root: Path,
    name: str,
    files: list[Path],
    sha256_files: Callable[[list[Path]], dict[Path, str]] = digest.sha256_files,
    look: Callable[[int, pictures.Image.Image], None] = lambda place, frame: None,
) -> plan.Item:
    """One clip, locked. `look` sees each frame that is taken, with its place, once it is decoded.

    Raises InputError with what is wrong with the clip.
    """
    shown = paths.display(root / name)
    is_folder = (root / name).is_dir()
    if is_folder and len(files) < images.frames:
        what = f"has {len(files)} frames, {images.frames} are wanted"
        raise InputError(Problem(shown, what, "set Images(frames=…) lower, or leave the clip out"))
    used = files[: images.frames] if is_folder else files * images.frames
    hashes = sha256_files(files)
    frames = tuple(
        plan.Frame(
            path=paths.relative_name(root, file), sha256=hashes[file], number=0 if is_folder else number
        )
        for number, file in enumerate(used)
    )
    decoded = map(pictures.open_picture, used) if is_folder else pictures.open_frames(files[0], images.frames)
    sizes = set()
    for place, frame in enumerate(decoded):
        look(place, frame)
        sizes.add(frame.size)
    if len(sizes) > 1:
        listed = ", ".join(f"{width}×{height}" for width, height in sorted(sizes))
        raise InputError(Problem(shown, f"has frames of several sizes: {listed}", "bring them to one size"))
    ((width, height),) = sizes
    bucket = buckets.bucket_of(rule, width, height)
    if bucket is None:
        what = f"is {width}×{height}, too small for resolution {images.resolution}"
        raise InputError(Problem(shown, what, "set data.upscale, or a lower data.resolution"))
    text = strict_json.canonical([plan.unstructure(frame) for frame in frames])
    return plan.Item(
        path=name,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        width=width,
        height=height,
        caption="",
        repeats=images.repeats,
        bucket=bucket,
        clip=plan.Clip(frames=frames, fps=images.fps, motion=images.motion),
    )
