"""Pictures that blow up: refused in a line, from the header where the header says it, in little memory."""

from __future__ import annotations

import io
import resource
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from runtime.errors import InputError
from runtime.safeio import images
from tests.runtime.safeio.test_images import chunk, noise, png, saved

pytestmark = pytest.mark.timeout(60)

REPLACE = "hint: replace the file, or leave it out"
SMALLER = "hint: make it smaller"


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(data: bytes) -> list[str]:
    Path("a.png").write_bytes(data)
    with pytest.raises(InputError) as caught:
        images.open_picture("a.png")
    return caught.value.lines()


def jpeg_of(width: int, height: int) -> bytes:
    """A JPEG whose header claims a size."""
    data = bytearray(saved(noise(8, 8), "JPEG"))
    frame = data.index(b"\xff\xc0")
    struct.pack_into(">2H", data, frame + 5, height, width)
    return bytes(data)


def webp_of(width: int, height: int) -> bytes:
    """A WebP whose header claims a canvas."""
    body = b"VP8X" + struct.pack("<I", 10) + bytes(4)
    body += (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body += saved(noise(8, 8), "WEBP")[12:]
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def lossless_webp_of(width: int, height: int) -> bytes:
    data = bytearray(saved(noise(8, 8), "WEBP", lossless=True))
    at = data.index(b"VP8L") + 9
    (bits,) = struct.unpack_from("<I", data, at)
    struct.pack_into("<I", data, at, bits >> 28 << 28 | (height - 1) << 14 | (width - 1))
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "claim"),
    [
        (png(50_000, 50_000, 8, 2, b""), "50000 x 50000, 2,500 megapixels"),
        (png(2**31 - 1, 2**31 - 1, 8, 2, b""), "2147483647 x 2147483647, 4,611,686,014,132 megapixels"),
        (png(10_001, 10_000, 8, 0, b""), "10001 x 10000, 100 megapixels"),
        (jpeg_of(65_500, 65_500), "65500 x 65500, 4,290 megapixels"),
        (webp_of(16_383, 16_383), "16383 x 16383, 268 megapixels"),
        (webp_of(2**24, 255), "16777216 x 255, 4,278 megapixels"),
        (lossless_webp_of(16_384, 16_384), "16384 x 16384, 268 megapixels"),
    ],
    ids=["png", "largest png", "just over", "jpeg", "webp", "wide webp", "lossless webp"],
)
def test_a_size_beyond_the_limit_is_refused_from_the_header(
    data: bytes, claim: str, recwarn: pytest.WarningsRecorder
) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    assert refused(data) == [f"error: a.png: is {claim}; at most 100 are read", SMALLER]
    with pytest.raises(InputError, match="at most 100 are read"):
        images.probe("a.png")

    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB
    assert not recwarn.list


@pytest.mark.parametrize("data", [png(0, 0, 8, 2, b""), png(0, 10, 8, 2, b""), jpeg_of(0, 8), jpeg_of(8, 0)])
def test_a_picture_of_no_size(data: bytes) -> None:
    line, hint = refused(data)

    assert line.startswith("error: a.png: ")
    assert hint == REPLACE


def test_text_that_inflates() -> None:
    bomb = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(50_000_000), 9))

    assert refused(png(1, 1, 8, 0, b"\0\0", bomb)) == [
        "error: a.png: has a text or colour-profile chunk that unpacks to more than it may",
        REPLACE,
    ]


def test_text_that_inflates_behind_the_pixels() -> None:
    bomb = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(50_000_000), 9))
    data = png(1, 1, 8, 0, b"\0\0")
    end = data.index(b"IEND") - 4

    assert refused(data[:end] + bomb + data[end:]) == [
        "error: a.png: has a text or colour-profile chunk that unpacks to more than it may",
        REPLACE,
    ]


def test_a_thousand_texts_that_inflate_together() -> None:
    bombs = [chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1_000_000), 9)) for _ in range(100)]

    assert refused(png(1, 1, 8, 0, b"\0\0", *bombs)) == [
        "error: a.png: has a text or colour-profile chunk that unpacks to more than it may",
        REPLACE,
    ]


def test_a_profile_that_inflates() -> None:
    bomb = chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(50_000_000), 9))

    assert refused(png(1, 1, 8, 0, b"\0\0", bomb)) == [
        "error: a.png: has a text or colour-profile chunk that unpacks to more than it may",
        REPLACE,
    ]


def test_a_profile_of_many_megabytes() -> None:
    data = saved(noise(8, 8), "JPEG", icc_profile=bytes(5_000_000))

    assert refused(data) == ["error: a.png: has a colour profile of 5,000,000 bytes", REPLACE]


def test_pixels_that_inflate_beyond_the_picture_are_not_kept() -> None:
    Path("a.png").write_bytes(png(1, 1, 8, 0, bytes(100_000_000)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    assert images.open_picture("a.png").size == (1, 1)

    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


def test_a_jpeg_that_asks_for_thousands_of_passes() -> None:
    data = saved(Image.new("RGB", (4000, 4000)), "JPEG", progressive=True)
    scan = data.rindex(b"\xff\xda")
    last = data[scan:-2]

    assert refused(data[:-2] + last * 2000 + data[-2:]) == [
        f"error: a.png: asks to be decoded in {2000 + data.count(bytes.fromhex('ffda')):,} passes",
        "hint: save it again as PNG",
    ]


def test_an_animation_without_end_is_not_played() -> None:
    control = chunk(b"acTL", struct.pack(">2I", 2**31 - 1, 0))

    assert refused(png(1, 1, 8, 0, b"\0\0", control)) == [
        "error: a.png: is an animation of 2,147,483,648 frames; a still picture is wanted",
        REPLACE,
    ]


def test_a_file_that_never_ends_is_not_read_whole() -> None:
    with Path("a.png").open("wb") as file:
        file.write(saved(noise(8, 8)))
        file.truncate(2**40)

    with pytest.raises(InputError) as caught:
        images.open_picture("a.png")

    assert caught.value.lines() == [
        "error: a.png: is longer than 268,435,456 bytes, the most that is read",
        REPLACE,
    ]


def test_eps_never_reaches_ghostscript() -> None:
    canary = Path("canary").resolve()
    Path("a.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(" + bytes(canary) + b") (w) file closefile\n"
    )
    script = (
        "import sys; from runtime.safeio import images; "
        "print(images.fault('a.png')); print('PIL.EpsImagePlugin' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )

    assert result.stdout == "a.png: is an EPS; JPEG, PNG and WebP are read\nFalse\n"
    assert not canary.exists()


def test_names_and_texts_never_reach_the_terminal_raw() -> None:
    Path("\x1b[2J\n.png").write_bytes(b"GIF89a")
    with pytest.raises(InputError) as caught:
        images.open_picture("\x1b[2J\n.png")

    assert caught.value.lines()[0] == "error: \\x1b[2J\\n.png: is a GIF; JPEG, PNG and WebP are read"


def test_text_chunks_are_left_behind() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "{{ hostile }}")
    buffer = io.BytesIO()
    noise(8, 8).save(buffer, "PNG", pnginfo=info)
    Path("a.png").write_bytes(buffer.getvalue())

    assert "parameters" not in images.open_picture("a.png").info
