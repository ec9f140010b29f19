"""The pictures that go with a LoRA: the card that browsers of LoRAs show, and the small one inside the file.

Both are made from the pixels alone: no text, profile or date of the picture goes along.
"""

from __future__ import annotations

import base64
import io

from PIL.Image import Image, Resampling, frombytes

THUMBNAIL = 256
"""Pixels a side at most (ModelSpec 1.0.1: 256x256 JPEG)."""

QUALITY = 85


def png(picture: Image) -> bytes:
    """The picture as a PNG file."""
    return _encoded(_bare(picture), "PNG")


def thumbnail(picture: Image) -> str:
    """A JPEG no larger than 256x256 as a data URL, for `modelspec.thumbnail`."""
    small = _bare(picture)
    small.thumbnail((THUMBNAIL, THUMBNAIL), Resampling.LANCZOS)
    data = _encoded(small, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(data).decode("ascii")


def _bare(picture: Image) -> Image:
    rgb = picture.convert("RGB")
    return frombytes("RGB", rgb.size, rgb.tobytes())


def _encoded(picture: Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()
