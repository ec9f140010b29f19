"""Checkpoints made by hand, as torch.save lays them out, so that a test can put a lie in any place."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path

from tests.attacks.payloads import call, name, text, values

ONES = 0xFFFFFFFF
"""Where a number is too large for 32 bits and stands elsewhere."""

PROTOCOL = b"\x80\x04"
WEIGHTS = struct.pack("<4f", 1, 2, 3, 4)
"""The storage of the one honest tensor, `w`, a 2 x 2 of float32."""


def storage(key: str = "0", kind: bytes | None = None, count: int = 4) -> bytes:
    """A persistent id."""
    kind = name("torch", "FloatStorage") if kind is None else kind
    return values(text("storage"), kind, text(key), text("cpu"), integer(count)) + b"Q"


def integer(value: int) -> bytes:
    """LONG1: an integer of up to 255 bytes."""
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def tensor(
    of: bytes | None = None,
    offset: int = 0,
    shape: tuple[int, ...] = (2, 2),
    strides: tuple[int, ...] = (2, 1),
) -> bytes:
    """torch._utils._rebuild_tensor_v2 of a storage."""
    return call(
        name("torch._utils", "_rebuild_tensor_v2"),
        storage() if of is None else of,
        integer(offset),
        values(*map(integer, shape)),
        values(*map(integer, strides)),
        b"\x89",
        call(name("collections", "OrderedDict")),
    )


def table(**entries: bytes) -> bytes:
    """A dict with string keys."""
    return b"}(" + b"".join(text(key) + value for key, value in entries.items()) + b"u"


def program(value: bytes) -> bytes:
    """A whole pickle."""
    return PROTOCOL + value + b"."


def zipped(pickle: bytes, *, method: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
    """The archive of torch 1.6 and later; `members` are its storages by key (`s0`, `s1`)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("archive/data.pkl", pickle)
        archive.writestr("archive/byteorder", b"little")
        for key, data in (members or {"s0": WEIGHTS}).items():
            archive.writestr(f"archive/data/{key[1:]}", data)
    return buffer.getvalue()


def legacy(
    value: bytes, storages: bytes = struct.pack("<Q", 4) + WEIGHTS, keys: tuple[str, ...] = ("0",)
) -> bytes:
    """The file of torch before 1.6: five pickles, then the storages."""
    system = table(protocol_version=integer(1001), little_endian=b"\x88")
    heads = [integer(0x1950A86A20F9469CFC6C), integer(1001), system, value]
    order = b"](" + b"".join(map(text, keys)) + b"e"
    return b"".join(b"\x80\x02" + part + b"." for part in [*heads, order]) + storages


def write_zip64(path: Path, members: dict[str, bytes | int]) -> None:
    """An archive whose sizes and offsets are 64-bit; a number in place of bytes is a hole of that length."""
    directory = b""
    with path.open("wb") as file:
        for member, content in members.items():
            data = b"" if isinstance(content, int) else content
            size = content if isinstance(content, int) else len(content)
            key, offset, crc = member.encode(), file.tell(), zlib.crc32(data)
            extra = struct.pack("<2H2Q", 1, 16, size, size)
            sizes = (crc, ONES, ONES, len(key), len(extra))
            file.write(struct.pack("<4s5H3L2H", b"PK\x03\x04", 45, 0, 0, 0, 0, *sizes))
            file.write(key + extra + data)
            file.seek(size - len(data), 1)
            extra = struct.pack("<2H3Q", 1, 24, size, size, offset)
            sizes = (crc, ONES, ONES, len(key), len(extra))
            directory += struct.pack("<4s6H3L2H", b"PK\x01\x02", 45, 45, 0, 0, 0, 0, *sizes)
            directory += struct.pack("<3H2L", 0, 0, 0, 0, ONES) + key + extra
        end = (len(members), len(members), len(directory), file.tell())
        file.write(directory)
        end_at = file.tell()
        file.write(struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, *end))
        file.write(struct.pack("<4sLQL", b"PK\x06\x07", 0, end_at, 1))
        file.write(struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, *end[:2], ONES, ONES, 0))
