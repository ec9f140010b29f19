"""Pictures come out as a viewer shows them, or with a line that says why not. Bombs are in tests/attacks."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from runtime.errors import InputError
from runtime.safeio import images
from tests.runtime.safeio.refusals import refusal

REPLACE = "hint: replace the file, or leave it out"
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def saved(picture: Image.Image, kind: str = "PNG", **how: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **how)
    return buffer.getvalue()


def opened(data: bytes) -> Image.Image:
    Path("a.png").write_bytes(data)
    return images.open_picture("a.png")


def refused(data: bytes) -> list[str]:
    Path("a.png").write_bytes(data)
    lines = refusal(InputError, images.open_picture, "a.png")
    fault = images.fault("a.png")
    assert fault is not None
    assert lines[0] == f"error: {fault}"
    return lines


def noise(width: int = 64, height: int = 48) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int, colour: int, rows: bytes, *more: bytes) -> bytes:
    """A PNG from its parts: `rows` with their filter bytes, `more` chunks before the pixels."""
    head = chunk(b"IHDR", struct.pack(">2I5B", width, height, bits, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize(("kind", "how"), [("PNG", {}), ("WEBP", {"lossless": True})])
def test_a_lossless_picture_comes_out_as_it_is(kind: str, how: dict[str, Any]) -> None:
    found = opened(saved(noise(), kind, **how))

    assert found.mode == "RGB"
    assert found.tobytes() == noise().tobytes()


@pytest.mark.parametrize("how", [{}, {"progressive": True}])
def test_a_jpeg_comes_out_as_pillow_decodes_it(how: dict[str, Any]) -> None:
    data = saved(noise(), "JPEG", **how)

    assert opened(data).tobytes() == Image.open(io.BytesIO(data)).tobytes()


def test_sixteen_bits_are_scaled_and_not_cut_off() -> None:
    values = [0, 1000, 32768, 65535]
    rows = b"\0" + struct.pack(">4H", *values)

    found = opened(png(4, 1, 16, 0, rows))

    assert [found.getpixel((x, 0)) for x in range(4)] == [(v,) * 3 for v in (0, 4, 128, 255)]


def test_sixteen_bits_of_colour_are_scaled_too() -> None:
    rows = b"\0" + struct.pack(">6H", 65535, 32768, 0, 1000, 256, 65535)

    found = opened(png(2, 1, 16, 2, rows))

    assert [found.getpixel((x, 0)) for x in range(2)] == [(255, 128, 0), (3, 1, 255)]


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (Image.new("RGBA", (2, 2), (*RED, 0)), WHITE),
        (Image.new("RGBA", (2, 2), (*RED, 255)), RED),
        (Image.new("RGBA", (2, 2), (0, 0, 0, 128)), (127, 127, 127)),
        (Image.new("LA", (2, 2), (0, 0)), WHITE),
        (Image.new("L", (2, 2), 77), (77, 77, 77)),
        (Image.new("1", (2, 2), 1), WHITE),
        (Image.new("P", (2, 2), 0), (0, 0, 0)),
    ],
)
def test_modes_become_rgb_over_white(picture: Image.Image, expected: tuple[int, ...]) -> None:
    assert opened(saved(picture)).getpixel((0, 0)) == expected


def test_a_palette_and_its_transparent_entry() -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([*RED, *BLUE])
    picture.putpixel((1, 0), 1)

    plain = opened(saved(picture))
    clear = opened(saved(picture, transparency=0))

    assert [plain.getpixel((x, 0)) for x in (0, 1)] == [RED, BLUE]
    assert [clear.getpixel((x, 0)) for x in (0, 1)] == [WHITE, BLUE]


def test_a_colour_key_is_transparent() -> None:
    key = chunk(b"tRNS", struct.pack(">3H", *RED))

    found = opened(png(2, 1, 8, 2, b"\0" + bytes(RED) + bytes(BLUE), key))

    assert [found.getpixel((x, 0)) for x in (0, 1)] == [WHITE, BLUE]


def test_cmyk_becomes_rgb() -> None:
    found = opened(saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100))

    red, green, blue = found.getpixel((4, 4))  # type: ignore[misc]
    assert (red > 250, green < 5, blue < 5) == (True, True, True)


def profile(name: str) -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile(name)).tobytes()  # type: ignore[arg-type]


def swapped() -> bytes:
    """sRGB's own profile with red's and blue's primaries exchanged: red in it is blue to the eye."""
    data = bytearray(profile("sRGB"))
    red, blue = data.index(b"rXYZ"), data.index(b"bXYZ")
    data[red : red + 4], data[blue : blue + 4] = b"bXYZ", b"rXYZ"
    at = data.index(b"s\0R\0G\0B") if b"s\0R\0G\0B" in data else data.index(b"sRGB", 132)
    data[at : at + 1] = b"x"
    return bytes(data)


def test_a_profile_is_applied() -> None:
    found = opened(saved(Image.new("RGB", (2, 2), RED), icc_profile=swapped()))

    assert found.getpixel((0, 0)) == BLUE


def test_a_profile_is_applied_below_transparency() -> None:
    found = opened(saved(Image.new("RGBA", (2, 2), (*RED, 255)), icc_profile=swapped()))

    assert found.getpixel((0, 0)) == BLUE


@pytest.mark.parametrize("data", [b"junk", b"", profile("sRGB")[:200], profile("LAB"), profile("sRGB")])
def test_a_profile_that_says_nothing_new_or_cannot_be_read_changes_nothing(data: bytes) -> None:
    assert opened(saved(noise(), icc_profile=data)).tobytes() == noise().tobytes()


def with_orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[274] = value
    return exif


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(10))
def test_the_picture_is_turned_upright_and_its_size_known_beforehand(kind: str, orientation: int) -> None:
    picture = noise(48, 24)
    data = saved(picture, kind, exif=with_orientation(orientation))

    found = opened(data)

    plain = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    turned: dict[int, Callable[[Any], Any]] = {
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a.swapaxes(0, 1), 2),
        8: np.rot90,
    }
    expected = turned.get(orientation, lambda a: a)(plain)
    assert np.array_equal(np.asarray(found), expected)
    assert images.probe("a.png") == found.size


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"junk", b"Exif\0\0II*\0" + b"\xff" * 40]
)
def test_exif_that_cannot_be_read_counts_for_nothing(exif: bytes) -> None:
    found = opened(saved(noise(), "JPEG", exif=exif))

    assert found.size == (64, 48)


def test_a_cameras_two_pictures_in_one_jpeg_are_the_first() -> None:
    data = saved(noise(), "MPO", save_all=True, append_images=[noise(16, 16)])

    assert opened(data).size == (64, 48)


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", ["is empty (0 bytes)", "hint: fetch the file again"]),
        (
            b"<html><body>404</body></html>",
            ["is a web page, not a picture", "hint: fetch it again; the site may want you to log in first"],
        ),
        (
            b"version https://git-lfs.github.com/spec/v1\n",
            [
                "is a Git LFS pointer, 43 bytes: fetch the real file",
                "hint: run `git lfs pull` in its folder",
            ],
        ),
        (saved(noise(), "GIF"), ["is a GIF; JPEG, PNG and WebP are read", "hint: convert it to PNG"]),
        (saved(noise(), "BMP"), ["is a BMP; JPEG, PNG and WebP are read", "hint: convert it to PNG"]),
        (saved(noise(), "TIFF"), ["is a TIFF; JPEG, PNG and WebP are read", "hint: convert it to PNG"]),
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n",
            ["is an EPS; JPEG, PNG and WebP are read", "hint: convert it to PNG"],
        ),
        (
            b"RIFF\x10\0\0\0AVI LIST",
            ["is something else; JPEG, PNG and WebP are read", "hint: convert it to PNG"],
        ),
        (b"\0" * 100, ["is something else; JPEG, PNG and WebP are read", "hint: convert it to PNG"]),
    ],
)
def test_what_is_no_picture_is_called_by_its_name(data: bytes, lines: list[str]) -> None:
    first, *rest = lines

    assert refused(data) == [f"error: a.png: {first}", *rest]
    assert refusal(InputError, images.probe, "a.png") == [f"error: a.png: {first}", *rest]


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_truncated_picture_says_how_much_is_missing(kind: str) -> None:
    data = saved(noise(), kind)
    kept = len(data) // 2

    assert refused(data[:kept]) == [
        f"error: a.png: is truncated ({len(data) - kept:,} bytes missing)",
        REPLACE,
    ]


def test_a_truncated_jpeg_says_so() -> None:
    data = saved(noise(), "JPEG")

    assert refused(data[: len(data) // 2]) == ["error: a.png: is truncated", REPLACE]


@pytest.mark.parametrize(("kind", "frames"), [("PNG", 3), ("WEBP", 3)])
def test_an_animation_is_refused(kind: str, frames: int) -> None:
    pictures = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]

    data = saved(pictures[0], kind, save_all=True, append_images=pictures[1:])

    assert refused(data) == [
        f"error: a.png: is an animation of {frames} frames; a still picture is wanted",
        REPLACE,
    ]


def test_a_broken_picture_is_named_and_pillows_reason_given() -> None:
    data = bytearray(saved(noise()))
    data[60] ^= 0xFF

    (line, hint) = refused(bytes(data))

    assert line.startswith("error: a.png: ")
    assert hint == REPLACE


def test_a_fault_is_none_for_a_good_picture() -> None:
    Path("a.png").write_bytes(saved(noise()))

    assert images.fault("a.png") is None


def test_a_missing_picture_is_a_fault_like_any_other() -> None:
    assert str(images.fault("gone.png")) == "gone.png: does not exist"


SEEDS = [
    saved(noise(16, 16), "JPEG", exif=with_orientation(6)),
    saved(noise(16, 16), "JPEG", progressive=True),
    saved(noise(16, 16), "PNG", icc_profile=profile("sRGB")),
    saved(Image.new("P", (16, 16)), "PNG", transparency=0),
    saved(noise(16, 16), "WEBP"),
    saved(noise(16, 16), "WEBP", lossless=True, exif=with_orientation(6)),
]


@settings(max_examples=600, deadline=None)
@given(st.sampled_from(SEEDS), st.floats(0, 1), st.binary(max_size=12), st.booleans())
def test_any_damage_gives_a_picture_or_a_line(seed: bytes, place: float, damage: bytes, cut: bool) -> None:
    at = int(place * len(seed))
    Path("a.png").write_bytes(seed[:at] + damage + (b"" if cut else seed[at + len(damage) :]))

    for read in (images.open_picture, images.probe):
        try:
            read("a.png")
        except InputError as error:
            assert error.lines()[0].startswith("error: a.png: ")


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([b"", *images.OPENERS, b"RIFF\0\0\0\0WEBPVP8X"]), st.binary(max_size=200))
def test_any_bytes_give_a_picture_or_a_line(magic: bytes, data: bytes) -> None:
    Path("a.png").write_bytes(magic + data)

    for read in (images.open_picture, images.probe):
        try:
            read("a.png")
        except InputError as error:
            assert error.lines()[0].startswith("error: a.png: ")


@pytest.mark.parametrize(
    ("picture", "saving", "wanted"),
    [
        (
            Image.new("RGB", (4, 4)),
            {},
            {"mode": "RGB", "bits": 8, "frames": 1, "orientation": 1, "profile": ""},
        ),
        (Image.new("RGBA", (4, 4), (1, 2, 3, 255)), {}, {"is_see_through": False, "mode": "RGBA"}),
        (Image.new("RGBA", (4, 4), (1, 2, 3, 254)), {}, {"is_see_through": True}),
        (Image.new("I;16", (4, 4), 7), {}, {"bits": 16}),
        (
            Image.new("L", (4, 4)),
            {"save_all": True, "append_images": [Image.new("L", (4, 4), 9)]},
            {"frames": 2},
        ),
    ],
)
def test_a_file_is_described_as_it_holds_its_picture(
    picture: Image.Image, saving: dict[str, Any], wanted: dict[str, Any], tmp_path: Path
) -> None:
    picture.save(tmp_path / "a.png", **saving)

    described = images.describe(tmp_path / "a.png")
    assert {name: getattr(described, name) for name in wanted} == wanted


def test_alpha_is_how_opaque_a_picture_is_upright_and_white_where_it_has_none() -> None:
    layers = Image.new("RGBA", (2, 1), (*RED, 255))
    layers.putpixel((1, 0), (*RED, 51))
    turned = Image.Exif()
    turned[274] = 2  # mirrored
    Path("a.png").write_bytes(saved(layers, exif=turned))
    Path("b.png").write_bytes(saved(Image.new("RGB", (2, 1))))

    assert np.asarray(images.open_alpha("a.png")).tolist() == [[51, 255]]
    assert np.asarray(images.open_alpha("b.png")).tolist() == [[255, 255]]
    assert images.open_picture("a.png").getpixel((1, 0)) == RED
