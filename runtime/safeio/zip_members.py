"""Where the members of an uncompressed zip archive lie, found without trusting it.

`zipfile` reads a directory of any size into memory, takes overlapping members and inflates without end. What
torch writes needs none of that: every member is stored as it is, and a slice of the file is all that is
wanted. The format: PKWARE APPNOTE 6.3.9, sections 4.3.7 to 4.3.16.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator

import attrs

from runtime.errors import InputError, Problem

DIRECTORY_LIMIT = 16 * 2**20
"""Bytes of the list of members at most: about 150,000 tensors."""

END = struct.Struct("<4s4H2LH")
END64_LOCATOR = struct.Struct("<4sLQL")
END64 = struct.Struct("<4sQ2H2L4Q")
ENTRY = struct.Struct("<4s6H3L5H2L")
LOCAL = struct.Struct("<4s5H3L2H")
ENCRYPTED = 1


@attrs.frozen
class Member:
    """The bytes of one member: file offsets, `end` not included."""

    start: int
    end: int


def read_members(file: io.BufferedReader, where: str) -> dict[str, Member]:
    """Every member by name, checked: stored, inside the file, none over another. Raises InputError."""
    try:
        return _members(file, where)
    except struct.error:
        raise _damaged(where, "its list of members is cut short") from None


def _members(file: io.BufferedReader, where: str) -> dict[str, Member]:
    start, length = _directory(file, where)
    if length > DIRECTORY_LIMIT:
        raise _damaged(where, f"its list of members has {length:,} bytes, {DIRECTORY_LIMIT:,} are allowed")
    file.seek(start)
    directory = file.read(length)
    members: dict[str, Member] = {}
    for name, size, header in _entries(directory, where):
        if name in members:
            raise _damaged(where, f"the member {name[:80]!r} is there twice")
        members[name] = _located(file, name, size, header, start, where)
    last = 0
    for name, member in sorted(members.items(), key=lambda item: item[1].start):
        if member.start < last:
            raise _damaged(where, f"the member {name[:80]!r} overlaps another")
        last = member.end
    return members


def _directory(file: io.BufferedReader, where: str) -> tuple[int, int]:
    """Offset and length of the central directory."""
    size = os.fstat(file.fileno()).st_size
    tail_start = max(0, size - END.size - 0xFFFF - END64_LOCATOR.size)
    file.seek(tail_start)
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0:
        raise InputError(
            Problem(where, "is truncated: the end of the archive is missing", "fetch the file again")
        )
    *_, length, start, comment = END.unpack_from(tail, at)
    if tail_start + at + END.size + comment != size:
        raise _damaged(where, "something follows its end")
    if at >= END64_LOCATOR.size:
        magic, _, end64, _ = END64_LOCATOR.unpack_from(tail, at - END64_LOCATOR.size)
        if magic == b"PK\x06\x07":
            if end64 > size:
                raise _damaged(where, "its list of members is not inside it")
            file.seek(end64)
            magic, *_, length, start = END64.unpack(file.read(END64.size))
            if magic != b"PK\x06\x06":
                raise _damaged(where, "its list of members is not where it should be")
    if start + length > size:
        raise _damaged(where, "its list of members is not inside it")
    return start, length


def _entries(directory: bytes, where: str) -> Iterator[tuple[str, int, int]]:
    """Name, size and local header's offset of each member."""
    at = 0
    while at < len(directory):
        fields = ENTRY.unpack_from(directory, at)
        magic, flags, method, packed, size = fields[0], fields[3], fields[4], fields[8], fields[9]
        name_length, extra_length, comment_length, header = fields[10], fields[11], fields[12], fields[16]
        if magic != b"PK\x01\x02":
            raise _damaged(where, "its list of members is broken")
        at += ENTRY.size
        name = directory[at : at + name_length].decode("utf-8", "replace")
        extra = directory[at + name_length : at + name_length + extra_length]
        at += name_length + extra_length + comment_length
        if method != 0 or flags & ENCRYPTED:
            raise _damaged(where, f"the member {name[:80]!r} is compressed, which torch.save never does")
        size, packed, header = _wide([size, packed, header], extra)
        if size != packed:
            raise _damaged(where, f"the member {name[:80]!r} has two sizes")
        yield name, size, header


def _wide(numbers: list[int], extra: bytes) -> list[int]:
    """The 64-bit numbers of the zip64 field in place of each 32-bit number that is all ones (4.5.3)."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            values = [
                value for (value,) in struct.iter_unpack("<Q", extra[at + 4 : at + 4 + length // 8 * 8])
            ]
            return [values.pop(0) if number == 0xFFFFFFFF and values else number for number in numbers]
        at += 4 + length
    return numbers


def _located(file: io.BufferedReader, name: str, size: int, header: int, limit: int, where: str) -> Member:
    if header + LOCAL.size > limit:
        raise _damaged(where, f"the member {name[:80]!r} is not inside it")
    file.seek(header)
    magic, *_, name_length, extra_length = LOCAL.unpack(file.read(LOCAL.size))
    same_name = file.read(name_length).decode("utf-8", "replace") == name
    if magic != b"PK\x03\x04" or not same_name:
        raise _damaged(where, f"the member {name[:80]!r} is not where the list says")
    start = header + LOCAL.size + name_length + extra_length
    if start + size > limit:
        raise _damaged(where, f"the member {name[:80]!r} is not inside it")
    return Member(start, start + size)


def _damaged(where: str, why: str) -> InputError:
    return InputError(Problem(where, f"is a damaged checkpoint: {why}", "fetch the file again"))
