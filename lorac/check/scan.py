"""A data folder as the checks see it: every picture read and measured once, its pixels then let go."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import attrs
import imagehash
import numpy as np
from PIL import Image

from lorac import masks
from lorac.captions import captions_of
from lorac.check.borders import Band, bands
from lorac.check.sharpness import sharpness
from lorac.data_folder import Folder, read_folder
from lorac.spec import Images
from runtime.errors import InputError, Problem
from runtime.safeio import digest, images

WORKERS = min(8, os.cpu_count() or 1)
"""Threads that decode: Pillow's decoders release the interpreter's lock."""

THUMBNAIL = 16
"""Side of what is left of a picture for a comparison of its colours."""

Progress = Callable[[int, int], None]
"""Called with pictures done and pictures in all."""


@attrs.frozen(kw_only=True, eq=False)
class Picture:
    """One picture: how its file holds it, and measures of it as RGB, upright, in sRGB.

    `size` is (width, height) in pixels, `sharpness` and `bands` as their modules measure them; `hash` is pHash's bits,
    bool (8, 8), and `thumbnail` uint8 (16, 16, 3).
    """

    file: images.Described
    sha256: str
    size: tuple[int, int]
    sharpness: tuple[float, float]
    bands: Band
    is_grey: bool
    hash: np.ndarray
    thumbnail: np.ndarray


@attrs.frozen(kw_only=True)
class Scan:
    """All of a data folder. Names are as in `folder`; a picture is in `pictures`, `animations` or `unread`.

    `captions` has those that are there, without the trigger put in front; `caption_problems` says what keeps others
    from being there. Masks are in none of these: `wrong_masks` says what is wrong with them.
    """

    folder: Folder
    pictures: dict[str, Picture]
    animations: dict[str, int]
    unread: dict[str, Problem]
    captions: dict[str, str]
    caption_problems: list[Problem]
    wrong_masks: list[Problem]
    resolution: int
    trigger: str

    def shown(self, name: str) -> str:
        """A name as messages show it."""
        return self.folder.shown(name)


def scan(
    root: Path,
    resolution: int,
    trigger: str,
    *,
    mask_path: str | None = None,
    progress: Progress | None = None,
) -> Scan:
    """Look at every picture and caption below `root`. Raises InputError where there are no pictures.

    `mask_path` is the masks' folder, relative to `root` (data.mask_path).
    """
    settings = Images(str(root), trigger=trigger, mask_path=mask_path)
    folder, masked = masks.split(settings, read_folder(root))
    captions, caption_problems = captions_of(settings, folder, Path())
    pictures: dict[str, Picture] = {}
    animations: dict[str, int] = {}
    unread: dict[str, Problem] = {}
    with ThreadPoolExecutor(WORKERS) as pool:
        found = pool.map(partial(_look, folder), folder.pictures)
        for done, (name, one) in enumerate(zip(folder.pictures, found, strict=True), start=1):
            if isinstance(one, Picture):
                pictures[name] = one
            elif isinstance(one, int):
                animations[name] = one
            else:
                unread[name] = one
            if progress:
                progress(done, len(folder.pictures))
    return Scan(
        folder=folder,
        pictures=pictures,
        animations=animations,
        unread=unread,
        captions=captions,
        caption_problems=caption_problems,
        wrong_masks=_wrong_masks(
            settings, folder, masked, {name: one.size for name, one in pictures.items()}
        ),
        resolution=resolution,
        trigger=trigger,
    )


def _wrong_masks(settings: Images, folder: Folder, masked: Folder, sizes: masks.Sizes) -> list[Problem]:
    """Masks that cannot be read, of another size than their picture, or of no picture."""
    whole: dict[str, tuple[int, int]] = {}
    unread: list[Problem] = []
    for name, path in masked.pictures.items():
        try:
            whole[name] = images.open_picture(path).size
        except InputError as error:
            unread += error.problems
    return [*unread, *masks.pair(settings, folder, sizes, whole)[1]]


def _look(folder: Folder, name: str) -> Picture | int | Problem:
    """The picture measured; an animation's number of frames; or what keeps it from being read."""
    path = folder.pictures[name]
    try:
        file = images.describe(path)
        if file.frames > 1:
            return file.frames
        picture = images.open_picture(path)
        sha256 = digest.sha256_file(path)
    except InputError as error:
        return error.problems[0]
    return measured(file, picture, sha256)


def measured(file: images.Described, picture: Image.Image, sha256: str) -> Picture:
    """A picture's measures. `file` is how it is held."""
    pixels = np.asarray(picture)
    return Picture(
        file=file,
        sha256=sha256,
        size=picture.size,
        sharpness=sharpness(picture),
        bands=bands(pixels),
        is_grey=bool((pixels == pixels[:, :, :1]).all()),
        hash=imagehash.phash(picture).hash,
        thumbnail=np.asarray(picture.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)),
    )
