"""A clean folder of pictures with captions, and faults to plant in it, each known by its name in the registry."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageFilter

SIDE = 128
RESOLUTION = 128
TRIGGER = "mosaic style"
SUBJECTS = (
    "red fox",
    "old clock",
    "tin boat",
    "paper kite",
    "glass bell",
    "stone frog",
    "wool hat",
    "brass key",
)


def mosaic(word: str, width: int = SIDE, height: int = SIDE) -> Image.Image:
    """Coloured tiles that no other word gives: sharp, without borders."""
    draw = np.random.default_rng(zlib.crc32(word.encode()))
    tiles = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(tiles).resize((width, height), Image.Resampling.NEAREST)


def clean(folder: Path) -> None:
    """Eight pictures 0.png … with a caption beside each."""
    folder.mkdir(parents=True)
    for number, subject in enumerate(SUBJECTS):
        add(folder, str(number), mosaic(subject), f"{TRIGGER}, a {subject} on a shelf")


def add(folder: Path, name: str, picture: Image.Image, caption: str = "", **saving: object) -> None:
    """A picture with its caption, one of its own unless given; PNG unless the name has a suffix."""
    path = folder / (name if "." in name else f"{name}.png")
    picture.save(path, **saving)
    path.with_suffix(".txt").write_text(caption or f"{TRIGGER}, the {name} in a field")


def _truncated(folder: Path) -> None:
    add(folder, "truncated", mosaic("truncated"))
    path = folder / "truncated.png"
    path.write_bytes(path.read_bytes()[:-60])


def _animated(folder: Path) -> None:
    frames = [mosaic(word) for word in ("first", "second")]
    add(folder, "animated", frames[0], save_all=True, append_images=frames[1:], duration=100)


def _copied(folder: Path) -> None:
    add(folder, "copied", mosaic(SUBJECTS[0]))


def _compressed(folder: Path) -> None:
    add(folder, "compressed.jpg", mosaic(SUBJECTS[1]).resize((144, 144)), quality=70)


def _blurred(folder: Path) -> None:
    add(folder, "blurred", mosaic("blurred").filter(ImageFilter.GaussianBlur(9)))


def _letterboxed(folder: Path) -> None:
    picture = Image.new("RGB", (SIDE, SIDE), "black")
    picture.paste(mosaic("letterboxed", SIDE, SIDE - 32), (0, 16))
    add(folder, "letterboxed", picture)


def _see_through(folder: Path) -> None:
    picture = mosaic("see-through").convert("RGBA")
    picture.paste((0, 0, 0, 0), (20, 20, 70, 70))
    add(folder, "see_through", picture)


def _turned(folder: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    add(folder, "turned.jpg", mosaic("turned", SIDE, SIDE + 32), exif=exif, quality=95)


def _profiled(folder: Path) -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    add(folder, "profiled", mosaic("profiled"), icc_profile=lab.tobytes())


def _cmyk(folder: Path) -> None:
    add(folder, "cmyk.jpg", mosaic("cmyk").convert("CMYK"), quality=95)


def _deep(folder: Path) -> None:
    wide = np.asarray(mosaic("deep").convert("L")).astype(np.uint16) * 257
    add(folder, "deep", Image.fromarray(wide))


def _grey(folder: Path) -> None:
    add(folder, "grey", mosaic("grey").convert("L"))


def _uncaptioned(folder: Path) -> None:
    mosaic("uncaptioned").save(folder / "uncaptioned.png")


def _emptily_captioned(folder: Path) -> None:
    add(folder, "silent", mosaic("silent"), "  \n")


def _not_utf8(folder: Path) -> None:
    add(folder, "latin", mosaic("latin"))
    (folder / "latin.txt").write_bytes(b"caf\xe9")


def _video(folder: Path) -> None:
    (folder / "clip.mp4").write_bytes(b"x")


def _masked(folder: Path) -> None:
    (folder / "masks").mkdir()
    Image.new("L", (SIDE, SIDE), "white").save(folder / "masks" / "nobody.png")


def _outweighed(folder: Path) -> None:
    for number in range(9):
        inner = folder / f"{1 + 99 * (number == 8)}_set"
        inner.mkdir(exist_ok=True)
        add(inner, f"outweighed{number}", mosaic(f"outweighed {number}"), f"{TRIGGER}, toy number {number}")


FAULTS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "unreadable": ("truncated.png", _truncated),
    "animated": ("animated.png", _animated),
    "not-taken": ("clip.mp4", _video),
    "mask": ("masks/nobody.png", _masked),
    "duplicate": ("copied.png", _copied),
    "near-duplicate": ("compressed.jpg", _compressed),
    "too-small": ("tiny.png", lambda folder: add(folder, "tiny", mosaic("tiny", 40, 40))),
    "too-long": ("long.png", lambda folder: add(folder, "long", mosaic("long", 900, 130))),
    "blurred": ("blurred.png", _blurred),
    "border": ("letterboxed.png", _letterboxed),
    "see-through": ("see_through.png", _see_through),
    "turned": ("turned.jpg", _turned),
    "colour-profile": ("profiled.png", _profiled),
    "cmyk": ("cmyk.jpg", _cmyk),
    "16-bit": ("deep.png", _deep),
    "grey": ("grey.png", _grey),
    "caption-missing": ("uncaptioned.png", _uncaptioned),
    "caption-empty": ("silent.png", _emptily_captioned),
    "caption-unusable": ("latin.txt", _not_utf8),
    "caption-repeated": (
        "same.png",
        lambda folder: add(folder, "same", mosaic("same"), f"{TRIGGER}, a red fox on a shelf"),
    ),
    "caption-vague": (
        "vague.png",
        lambda folder: add(folder, "vague", mosaic("vague"), f"{TRIGGER}, a beautiful picture"),
    ),
    "caption-without-trigger": (
        "plain.png",
        lambda folder: add(folder, "plain", mosaic("plain"), "a blue teapot"),
    ),
    "caption-too-long": (
        "wordy.png",
        lambda folder: add(
            folder, "wordy", mosaic("wordy"), f"{TRIGGER}, {'one more brick and ' * 20}a door"
        ),
    ),
    "unbalanced": ("", _outweighed),
}
"""Fault -> the file that it is found in ("" for the folder), and what plants it. Each of its own, in one folder."""
