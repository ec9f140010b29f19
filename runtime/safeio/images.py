"""Pictures from strangers: allow-listed formats, bounded, wholly decoded, brought to 8-bit sRGB as a viewer
shows them.

| what is in the file | what comes out |
| --- | --- |
| transparency (alpha, palette entry, colour key) | laid over white |
| 16 bits a channel | scaled to 8 bits, not cut off at 255 |
| grey, two-level, palette, CMYK, YCbCr | RGB |
| an ICC profile other than sRGB | converted to sRGB, where Pillow's LittleCMS takes the profile; else ignored
| | EXIF orientation | turned upright; EXIF that cannot be read counts for nothing |
| several frames (APNG, animated WebP) | refused; a camera's MPO is its first picture |

Pillow's plugins are called directly: `Image.open` warns and goes on where a limit is meant, and tries every
format.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import attrs
from PIL import GifImagePlugin, Image, ImageCms, JpegImagePlugin, PngImagePlugin, WebPImagePlugin

from runtime.errors import InputError, Problem
from runtime.safeio.impostors import refuse_impostor
from runtime.safeio.paths import display, open_file

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
"""Of the files that are taken for pictures."""

PIXELS = 100_000_000
"""A picture may have so many. Decoded, that is 400 MB."""

BYTES = 256 * 2**20
"""A picture file may have so many."""

PROFILE_BYTES = 4 * 2**20
"""An ICC profile may have so many; printers' CMYK profiles come to 3 MB."""

FREE_SCANS = 20
SCANNED_PIXELS = 2_000_000_000
"""A progressive JPEG of few bytes can ask for thousands of passes: past FREE_SCANS, passes times pixels has
this limit (libjpeg-turbo, "Two issues with the JPEG standard", LJT-01-005)."""

OPENERS: dict[bytes, Callable[..., Any]] = {
    b"\xff\xd8\xff": JpegImagePlugin.jpeg_factory,
    b"\x89PNG\r\n\x1a\n": PngImagePlugin.PngImageFile,
    b"RIFF": WebPImagePlugin.WebPImageFile,
}

ANIMATED: dict[bytes, Callable[..., Any]] = {
    b"GIF8": GifImagePlugin.GifImageFile,
    b"\x89PNG\r\n\x1a\n": PngImagePlugin.PngImageFile,
    b"RIFF": WebPImagePlugin.WebPImageFile,
}

OTHERS = {
    b"GIF8": "a GIF",
    b"BM": "a BMP",
    b"II*\0": "a TIFF",
    b"MM\0*": "a TIFF",
    b"8BPS": "a Photoshop file",
    b"%PDF": "a PDF",
    b"%!PS": "an EPS",
    b"<svg": "an SVG",
}

UPRIGHT = {
    # EXIF 2.32, 4.6.4 A, tag 274
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

PROFILE_SPACES = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}

PILLOW_LIMITS = ("MAX_TEXT_CHUNK", "MAX_TEXT_MEMORY")
"""Named in the errors of Pillow's PNG plugin: 1 MiB a chunk, 64 MiB in all."""

REPLACE = "replace the file, or leave it out"

_T = TypeVar("_T")

# They name no file, and whatever matters is an error here.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


@attrs.frozen(kw_only=True)
class Described:
    """What `open_picture` would bring to RGB: how the file itself holds the picture.

    `orientation` is EXIF's, 1 upright; `profile` is the colour profile's name, "" for none and for sRGB.
    """

    mode: str
    bits: int
    frames: int
    orientation: int
    is_see_through: bool
    profile: str


def describe(path: str | os.PathLike[str]) -> Described:
    """How a file holds its picture, animations too. Raises InputError where the header cannot be read.

    Only a picture with transparency is decoded: one that is opaque all over does not count as see-through.
    """
    where = display(path)
    with open_file(path) as file:
        head = file.read(4096)
        file.seek(0)
        size = os.fstat(file.fileno()).st_size
        return _guarded(lambda: _described(_opened(file, head, size, where), head), head, where)


def open_picture(path: str | os.PathLike[str]) -> Image.Image:
    """The picture as an RGB image, upright, in sRGB, wholly decoded. Raises InputError for any fault."""
    return _read(path, _flat)


def open_alpha(path: str | os.PathLike[str]) -> Image.Image:
    """How opaque the picture of `open_picture` is: grey of its size, white where it has no alpha. Raises InputError."""
    return _read(path, _alpha)


def open_frames(path: str | os.PathLike[str], count: int) -> list[Image.Image]:
    """The first `count` frames of an animated GIF, PNG or WebP, each as `open_picture` gives a picture.

    Raises InputError for any fault, and where there are fewer.
    """
    return _whole(path, lambda data, where: _frames(data, count, where))


def probe(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Width and height of the picture as `open_picture` gives it, from the header. Raises InputError.

    A header can be whole where the picture is not: see `fault`.
    """
    where = display(path)
    with open_file(path) as file:
        head = file.read(4096)
        file.seek(0)
        size = os.fstat(file.fileno()).st_size
        picture = _guarded(lambda: _still(_opened(file, head, size, where), where), head, where)
        width, height = picture.size
        return (height, width) if _orientation(picture) >= 5 else (width, height)


def fault(path: str | os.PathLike[str]) -> Problem | None:
    """What is wrong with a picture, found by decoding all of it; None if nothing is."""
    try:
        open_picture(path)
    except InputError as error:
        return error.problems[0]
    return None


def _read(path: str | os.PathLike[str], seen: Callable[[Image.Image, str], Image.Image]) -> Image.Image:
    return _whole(path, lambda data, where: _decoded(data, where, seen))


def _whole(path: str | os.PathLike[str], read: Callable[[bytes, str], _T]) -> _T:
    where = display(path)
    with open_file(path) as file:
        data = file.read(BYTES + 1)
    if len(data) > BYTES:
        raise InputError(Problem(where, f"is longer than {BYTES:,} bytes, the most that is read", REPLACE))
    return _guarded(lambda: read(data, where), data, where)


def _guarded(read: Callable[[], _T], data: bytes, where: str) -> _T:
    try:
        return read()
    except InputError:
        raise
    except Exception as error:  # Pillow's plugins raise whatever the broken bytes lead to
        raise InputError(Problem(where, _reason(error, data), REPLACE)) from error


def _opened(stream: io.BufferedReader | io.BytesIO, head: bytes, size: int, where: str) -> Image.Image:
    """The picture with its header read and nothing decoded, within the limits."""
    refuse_impostor(head, size, "picture", where)
    opener = next((opener for magic, opener in OPENERS.items() if head.startswith(magic)), None)
    if opener is None or (head.startswith(b"RIFF") and head[8:12] != b"WEBP"):
        kind = next((name for magic, name in OTHERS.items() if head.startswith(magic)), "something else")
        raise InputError(Problem(where, f"is {kind}; JPEG, PNG and WebP are read", "convert it to PNG"))
    if head.startswith(b"RIFF"):  # the plugin has the decoder set aside the whole canvas
        _check_size(_webp_size(head), where)
    picture: Image.Image = opener(stream)
    _check_size(picture.size, where)
    return picture


def _still(picture: Image.Image, where: str) -> Image.Image:
    """The picture, if it is one and no animation."""
    frames = _frame_count(picture)
    if frames > 1:
        what = f"is an animation of {frames:,} frames; a still picture is wanted"
        raise InputError(Problem(where, what, REPLACE))
    return picture


def _frame_count(picture: Image.Image) -> int:
    """How many pictures an animation has; a camera's MPO is one with its previews."""
    return 1 if picture.format == "MPO" else int(getattr(picture, "n_frames", 1))


def _described(picture: Image.Image, head: bytes) -> Described:
    see_through, frames = _may_be_see_through(picture), _frame_count(picture)
    if see_through and frames == 1:
        see_through = any(picture.convert("RGBA").getchannel("A").histogram()[:255])
    is_deep = picture.format == "PNG" and head[24:25] == b"\x10"  # IHDR's bit depth
    return Described(
        mode=picture.mode,
        bits=16 if is_deep else 8,
        frames=frames,
        orientation=_orientation(picture),
        is_see_through=see_through,
        profile=_profile_name(picture.info.get("icc_profile")),
    )


def _decoded(data: bytes, where: str, seen: Callable[[Image.Image, str], Image.Image]) -> Image.Image:
    picture = _still(_opened(io.BytesIO(data), data[:4096], len(data), where), where)
    if data.startswith(b"\xff\xd8"):
        _check_scans(data.count(b"\xff\xda"), picture.size, where)
    picture.load()
    plain = seen(picture, where)
    turn = UPRIGHT.get(_orientation(picture))
    upright = plain if turn is None else plain.transpose(turn)
    upright.info.clear()  # a stranger's texts stay in the file
    return upright


def _frames(data: bytes, count: int, where: str) -> list[Image.Image]:
    refuse_impostor(data[:4096], len(data), "picture", where)
    opener = next((opener for magic, opener in ANIMATED.items() if data.startswith(magic)), None)
    if opener is None or (data.startswith(b"RIFF") and data[8:12] != b"WEBP"):
        raise InputError(Problem(where, "is no animated GIF, PNG or WebP", "give a folder of frames instead"))
    if data.startswith(b"RIFF"):
        _check_size(_webp_size(data), where)
    picture: Any = opener(io.BytesIO(data))
    _check_size(picture.size, where)
    has = getattr(picture, "n_frames", 1)
    if has < count:
        raise InputError(
            Problem(where, f"has {has} frames, {count} are wanted", "set Images(frames=…) lower")
        )
    found = []
    for number in range(count):
        picture.seek(number)
        found.append(_flat(picture, where))
    return found


def _check_size(size: tuple[int, int], where: str) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise InputError(Problem(where, f"is {width} x {height} pixels: there is no picture in it", REPLACE))
    if width * height > PIXELS:
        mega = f"{width * height / 1e6:,.0f} megapixels"
        what = f"is {width} x {height}, {mega}; at most {PIXELS / 1e6:,.0f} are read"
        raise InputError(Problem(where, what, "make it smaller"))


def _check_scans(scans: int, size: tuple[int, int], where: str) -> None:
    if scans > FREE_SCANS and scans * size[0] * size[1] > SCANNED_PIXELS:
        raise InputError(Problem(where, f"asks to be decoded in {scans:,} passes", "save it again as PNG"))


def _webp_size(head: bytes) -> tuple[int, int]:
    """Width and height from the first chunk (RFC 9649, 2.5 to 2.7). Raises IndexError where it is cut off."""
    kind, data = head[12:16], head[20:30]
    if len(data) < 10:
        raise IndexError("the header is cut off")
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[4:7], "little"), 1 + int.from_bytes(data[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(data[6:8], "little") & 0x3FFF, int.from_bytes(data[8:10], "little") & 0x3FFF


def _orientation(picture: Image.Image) -> int:
    try:
        value = picture.getexif().get(274)
    except Exception:  # EXIF is a stranger's TIFF file; a picture is not worse for a broken one
        return 1
    return value if type(value) is int and value in UPRIGHT else 1


def _flat(picture: Image.Image, where: str) -> Image.Image:
    """RGB in sRGB, with what is transparent laid over white."""
    profile = picture.info.get("icc_profile")
    mode = picture.mode
    if mode.startswith("I"):  # 16-bit grey: I;16, I;16B, or I in Pillow's older versions
        return _in_srgb(_eight_bit(picture), profile, where)
    if not _may_be_see_through(picture):
        plain = picture if mode in PROFILE_SPACES else picture.convert("L" if mode == "1" else "RGB")
        return _in_srgb(plain, profile, where)
    layers = picture.convert("RGBA")
    white = Image.new("RGB", picture.size, "white")
    white.paste(_in_srgb(layers.convert("RGB"), profile, where), mask=layers.getchannel("A"))
    return white


def _may_be_see_through(picture: Image.Image) -> bool:
    """Whether the file has an alpha channel, a see-through palette entry or a colour key."""
    return "transparency" in picture.info or picture.mode in ("LA", "PA", "La", "RGBa", "RGBA")


def _profile_name(profile: Any) -> str:
    """A colour profile's description; "" where there is none, or sRGB, or one that LittleCMS refuses."""
    if not isinstance(profile, bytes) or not 0 < len(profile) <= PROFILE_BYTES:
        return ""
    try:
        name = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile))).strip()
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return ""
    return "" if name.lower().startswith("srgb") else name or "without a name"


def _alpha(picture: Image.Image, where: str) -> Image.Image:
    """The alpha channel, all white where there is none; 16-bit grey has none, as in `_flat`."""
    if _may_be_see_through(picture) and not picture.mode.startswith("I"):
        return picture.convert("RGBA").getchannel("A")
    return Image.new("L", picture.size, "white")


def _eight_bit(picture: Image.Image) -> Image.Image:
    import numpy as np

    wide = np.asarray(picture).astype(np.uint32)
    return Image.fromarray(((wide * 255 + 32767) // 65535).astype(np.uint8))


def _in_srgb(picture: Image.Image, profile: Any, where: str) -> Image.Image:
    """An RGB, L or CMYK picture as RGB, by its profile if that fits the picture."""
    if isinstance(profile, bytes) and profile:
        if len(profile) > PROFILE_BYTES:
            raise InputError(Problem(where, f"has a colour profile of {len(profile):,} bytes", REPLACE))
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            space = source.profile.xcolor_space.strip()
            srgb = ImageCms.getProfileDescription(source).lower().startswith("srgb")
            if space == PROFILE_SPACES[picture.mode] and not srgb:
                target = ImageCms.createProfile("sRGB")
                converted = ImageCms.profileToProfile(picture, source, target, outputMode="RGB")
                return converted or picture.convert("RGB")
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass  # a profile that LittleCMS refuses is as good as none
    return picture.convert("RGB")


def _reason(error: Exception, data: bytes) -> str:
    text = str(error)
    missing = _missing(data)
    if missing:
        return f"is truncated ({missing:,} bytes missing)"
    if "truncated" in text.lower():
        return "is truncated"
    if any(limit in text for limit in PILLOW_LIMITS):
        return "has a text or colour-profile chunk that unpacks to more than it may"
    if isinstance(error, MemoryError):
        return "needs more memory to decode than there is"
    return f"cannot be decoded ({type(error).__name__}: {text})" if text else "cannot be decoded"


def _missing(data: bytes) -> int:
    """Bytes that the file's own lengths promise and that are not there; 0 where the format does not say."""
    if data.startswith(b"RIFF"):
        return max(0, int.from_bytes(data[4:8], "little") + 8 - len(data))
    if not data.startswith(b"\x89PNG"):
        return 0
    at = 8
    while at + 8 <= len(data) and data[at + 4 : at + 8] != b"IEND":
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return max(0, at + 12 - len(data))
