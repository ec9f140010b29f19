"""Malformed data folders, each with one kind of fault, and the whole message that it must end in.

`CASES` maps a name to a maker; `make_bad_data(root)` makes them all. Messages are as from within `root`.
"""

from __future__ import annotations

import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import attrs
import numpy as np
from PIL import Image

SKIP = "hint: replace the files, or set Images(skip_bad=True) to record them as skipped"
OPTIONAL = 'set Images(captions="optional")'


@attrs.frozen
class Case:
    """A maker of a folder, and the lines that locking it ends in."""

    make: Callable[[Path], None]
    lines: list[str]


def picture(path: Path, number: int = 0, size: tuple[int, int] = (80, 72)) -> None:
    """A picture that no other number gives."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


def good(folder: Path, count: int = 3) -> None:
    """Pictures 0000.png … with captions beside them."""
    for number in range(count):
        picture(folder / f"{number:04}.png", number)
        (folder / f"{number:04}.txt").write_text(f"picture number {number}")


def table(folder: Path, text: str | bytes, name: str = "metadata.csv", count: int = 2) -> None:
    """Pictures 0000.png … and a metadata file."""
    for number in range(count):
        picture(folder / f"{number:04}.png", number)
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)


def unreadable(folder: Path) -> None:
    good(folder, 6)
    whole = (folder / "0000.png").read_bytes()
    (folder / "0000.png").write_bytes(whole[:-137])
    (folder / "0001.png").write_bytes(b"")
    (folder / "0002.png").write_text("<!DOCTYPE html><html>404</html>")
    (folder / "0003.png").write_bytes(b"GIF89a" + bytes(50))


def bomb(folder: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    good(folder)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    (folder / "0001.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + body)


def no_pictures(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in ("a.mp4", "b.mp4", "a.txt", "notes"):
        (folder / name).write_bytes(b"x")


def other_media(folder: Path) -> None:
    good(folder)
    (folder / "clip.mp4").write_bytes(b"x")
    (folder / "0003.bmp").write_bytes(b"x")


def too_small(folder: Path) -> None:
    good(folder)
    picture(folder / "0001.png", 1, (100, 40))


def bad_captions(folder: Path) -> None:
    good(folder, 6)
    (folder / "0000.txt").write_text(" \n\t ")
    (folder / "0001.txt").write_bytes("a caf\u00e9".encode("latin-1"))
    (folder / "0002.txt").write_text("a\0b")
    (folder / "0003.txt").write_text("word " * 3000)
    (folder / "0004.txt").unlink()


def twins(folder: Path) -> None:
    good(folder)
    shutil.copy(folder / "0000.png", folder / "again.png")
    (folder / "again.txt").write_text("the same")
    picture(folder / "0001.webp", 9)


def leaving(folder: Path) -> None:
    good(folder)
    outside = folder.parent / "outside.png"
    picture(outside, 77)
    (folder / "0003.png").symlink_to(outside.resolve())
    (folder / "inner").mkdir()
    (folder / "inner" / "0002.txt").symlink_to(outside.resolve())


def columns(folder: Path) -> None:
    table(folder, "picture,words\n0000.png,a\n0001.png,b\n")


def rows(folder: Path) -> None:
    lines = [
        "image,prompt",
        "0000.png,a red, round thing",
        "0000.png,a red thing",
        "0000.png,a red thing again",
        "0009.png,not there",
        "../outside.png,elsewhere",
        "0001.png,",
    ]
    table(folder, "\r\n".join(lines), count=3)


def deeper(folder: Path) -> None:
    table(folder, "file_name,text\n0000.png,a\n0001.png,b\n")
    for number in range(2):
        (folder / "images").mkdir(exist_ok=True)
        (folder / f"{number:04}.png").rename(folder / "images" / f"{number:04}.png")


def json_lines(folder: Path) -> None:
    lines = [
        '{"file_name": "0000.png", "text": "a"}',
        '{"file_name": "0001.png", "text": "b"',
        '{"file_name": "0001.png", "label": "b"}',
        "[1]",
        '{"file_name": "0001.png", "text": 3}',
        '{"file_name": "0001.png", "text": "b"}',
    ]
    table(folder, "\n".join(lines), "metadata.jsonl")


def wrong_bytes(folder: Path) -> None:
    table(folder, b"image,prompt\n0000.png,a\n0001.png,na\xefve\n")


CASES = {
    "missing": Case(
        lambda folder: None,
        ["error: missing: does not exist", "hint: give the folder of pictures as data.path"],
    ),
    "no_pictures": Case(
        no_pictures,
        [
            "error: no_pictures: has no pictures: found 2 .mp4, 1 .txt, 1 without a suffix;"
            " accepted are .jpg .jpeg .png .webp",
            "error: no_pictures/a.mp4: is a video (.mp4), and this family takes pictures",
            "error: no_pictures/b.mp4: is a video (.mp4), and this family takes pictures",
            "hint: give the folder of pictures as data.path",
            "hint: move the videos elsewhere",
        ],
    ),
    "unreadable": Case(
        unreadable,
        [
            "error: unreadable/0000.png: is truncated (137 bytes missing)",
            "error: unreadable/0001.png: is empty (0 bytes)",
            "error: unreadable/0002.png: is a web page, not a picture",
            "error: unreadable/0003.png: is a GIF; JPEG, PNG and WebP are read",
            SKIP,
            "hint: fetch the file again",
            "hint: fetch it again; the site may want you to log in first",
            "hint: convert it to PNG",
        ],
    ),
    "bomb": Case(
        bomb,
        [
            "error: bomb/0001.png: is 20000 x 20000, 400 megapixels; at most 100 are read",
            "hint: make it smaller",
        ],
    ),
    "other_media": Case(
        other_media,
        [
            "error: other_media/0003.bmp: is a .bmp picture; accepted are .jpg .jpeg .png .webp",
            "error: other_media/clip.mp4: is a video (.mp4), and this family takes pictures",
            "hint: convert it to .png, or move it elsewhere",
            "hint: move the videos elsewhere",
        ],
    ),
    "too_small": Case(
        too_small,
        [
            "error: too_small/0001.png: is too small: 100×40 pixels, and each side must be at least 64",
            "hint: use larger pictures, a lower resolution, or Images(upscale=True), which enlarges them",
        ],
    ),
    "bad_captions": Case(
        bad_captions,
        [
            "error: bad_captions/0001.txt: is not UTF-8 (byte 5 is 0xe9)",
            "error: bad_captions/0004.png: has no caption",
            "error: bad_captions/0000.png: caption is empty",
            "error: bad_captions/0002.png: caption has a NUL character",
            "error: bad_captions/0003.png: caption is 14,999 characters long; at most 10,000 are taken",
            "hint: save it as UTF-8",
            f"hint: write each caption beside its picture (0001.txt), or in metadata.csv, or {OPTIONAL}",
            f"hint: write one, or {OPTIONAL}",
            "hint: save the file as UTF-8, without NUL",
            "hint: shorten it",
        ],
    ),
    "twins": Case(
        twins,
        [
            "error: twins/0001.webp: shares the caption 0001.txt with 0001.png",
            "error: twins/again.png: is the same file as twins/0000.png",
            "hint: rename one of the two pictures, and give it its own caption",
            "hint: remove it; to see a picture more often, set repeats",
        ],
    ),
    "leaving": Case(
        leaving,
        [
            "error: leaving/0003.png: is a link that leaves its folder",
            "error: leaving/inner/0002.txt: is a link that leaves its folder",
            "hint: copy the file into the folder",
        ],
    ),
    "columns": Case(
        columns,
        [
            "error: columns/metadata.csv:1: wants an image column (image or file_name) and a caption column"
            " (prompt, text or caption), got `picture`, `words`",
            "hint: name the columns in the first line: image,prompt",
        ],
    ),
    "rows": Case(
        rows,
        [
            "error: rows/metadata.csv:2: has 3 fields, but the first line names 2 columns",
            "error: rows/metadata.csv:4: 0000.png has a row already, at rows/metadata.csv:3",
            "error: rows/metadata.csv:5: 0009.png does not exist",
            "error: rows/metadata.csv:6: path '../outside.png' leaves its folder with `..`",
            "error: rows/0002.png: has no row in rows/metadata.csv",
            "error: rows/0001.png: caption is empty",
            'hint: put captions with commas in quotes: "a, b"',
            "hint: keep one of the two rows",
            "hint: remove the row, or put the picture there",
            "hint: use a path relative to the folder, with forward slashes",
            f"hint: add the row, or {OPTIONAL}",
            f"hint: write one, or {OPTIONAL}",
        ],
    ),
    "deeper": Case(
        deeper,
        [
            "error: deeper/metadata.csv:2: 0000.png does not exist",
            "error: deeper/metadata.csv:3: 0001.png does not exist",
            "error: deeper/images/0000.png: has no row in deeper/metadata.csv",
            "error: deeper/images/0001.png: has no row in deeper/metadata.csv",
            "hint: it is at images/0000.png: write that path",
            "hint: it is at images/0001.png: write that path",
            f"hint: add the row, or {OPTIONAL}",
        ],
    ),
    "json_lines": Case(
        json_lines,
        [
            "error: json_lines/metadata.jsonl:2: is not JSON: expecting ',' delimiter (column 38)",
            "error: json_lines/metadata.jsonl:3: wants one of file_name, image and one of text, prompt,"
            " caption, got `file_name`, `label`",
            "error: json_lines/metadata.jsonl:4: is JSON, but not an object",
            "error: json_lines/metadata.jsonl:5: `text` must be text, got int",
            'hint: write one object a line: {"file_name": "0001.jpg", "text": "a caption"}',
            'hint: write {"file_name": "0001.jpg", "text": "a caption"}',
            "hint: put `text` in quotes",
        ],
    ),
    "wrong_bytes": Case(
        wrong_bytes,
        [
            "error: wrong_bytes/metadata.csv: is not UTF-8 (byte 35 is 0xef)",
            "hint: save it as UTF-8",
        ],
    ),
}


def make_bad_data(root: Path) -> dict[str, list[str]]:
    """Make every malformed folder in `root`. Returns the lines that each, by its name, must end in."""
    for name, case in CASES.items():
        case.make(root / name)
    return {name: case.lines for name, case in CASES.items()}
