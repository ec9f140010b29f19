"""JSON read without surprises and written in one form.

- Reading refuses what `json` lets through in silence: a key given twice, NaN, numbers too large for a double
  or for 64 bits, nesting without end, lone surrogates, a byte order mark. One message for each.
- Writing gives one text per value, whatever the dict order, locale or machine: keys sorted by code point, two
  spaces, UTF-8 without escapes, a newline at the end. `loads(canonical(x)) == x`.
- A float is written as Python's `repr` (the shortest text that reads back as the same double) and so
  always has a point or an exponent: `1.0` is a float, `1` an integer; a schema settles which a field holds.
  `-0.0` is written `0.0`: values that compare equal are written alike.
- Strings are not normalised: a caption is what the text encoder sees, and reading must give back what was
  written. Paths are NFC before they come here (paths.py).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any, NoReturn

from runtime.errors import InputError, LoracError, Problem
from runtime.safeio.paths import display, open_file

LIMIT = 64 * 2**20
"""Bytes that are read at most, unless the caller says otherwise."""

DEPTH = 64
"""Levels of nesting at most."""

INTEGERS = range(-(2**63), 2**64)
"""What signed or unsigned 64 bits hold."""

CONTROLS = re.compile("[\x7f-\x9f]")
"""Characters that JSON lets stand, but that a terminal may obey (0x9b starts an escape sequence)."""


class Each(list[Any]):
    """`make(value)` of each of some values, made as they are written, so that no two are held at once.

    A list, for JSON's encoder iterates nothing else.
    """

    def __init__(self, make: Callable[[Any], Any], values: Collection[Any]) -> None:
        super().__init__()
        self.make, self.values = make, values

    def __iter__(self) -> Iterator[Any]:
        return map(self.make, self.values)

    def __len__(self) -> int:
        return len(self.values)


class _Refused(Exception):
    """Why a text is refused; `loads` adds where."""


def loads(text: str | bytes, where: str, *, limit: int = LIMIT, error: type[LoracError] = InputError) -> Any:
    """The value of a JSON text. Anything wrong raises `error`, whose one problem is at `where`."""
    if len(text) > limit:
        raise error(Problem(where, f"is {len(text):,} bytes long; at most {limit:,} are read"))
    try:
        value = json.loads(
            _decoded(text),
            object_pairs_hook=_unique,
            parse_float=_finite,
            parse_int=_integer,
            parse_constant=_no_constant,
        )
        _check_nesting_and_text(value)
    except _Refused as refusal:
        raise error(Problem(where, str(refusal))) from None
    except RecursionError:
        raise error(Problem(where, f"is nested deeper than {DEPTH} levels")) from None
    except json.JSONDecodeError as fault:
        what = f"is not JSON: {fault.msg.lower()} (column {fault.colno})"
        raise error(Problem(f"{where}:{fault.lineno}", what)) from None
    return value


def read(path: str | os.PathLike[str], *, limit: int = LIMIT, error: type[LoracError] = InputError) -> Any:
    """The value in a JSON file, by `loads`. A file that cannot be opened raises InputError."""
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise error(Problem(display(path), f"is {size:,} bytes long; at most {limit:,} are read"))
        return loads(file.read(limit + 1), display(path), limit=limit, error=error)


def canonical(value: Any) -> str:
    """The one JSON text of a value made of dict (keys: str), list, tuple, str, int, float, bool and None.

    Raises TypeError for other types and ValueError for numbers or strings that `loads` would refuse.
    """
    return "".join(chunks(value))


def chunks(value: Any) -> Iterator[str]:
    """The text of `canonical` piece by piece."""
    encoder = json.JSONEncoder(sort_keys=True, ensure_ascii=False, allow_nan=False, indent=2)
    for chunk in encoder.iterencode(_plain(value)):
        yield CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", chunk)
    yield "\n"


def sha256(value: Any) -> str:
    """The hash of a value's canonical text, in hex, without holding the text."""
    found = hashlib.sha256()
    for chunk in chunks(value):
        found.update(chunk.encode())
    return found.hexdigest()


def _decoded(text: str | bytes) -> str:
    if isinstance(text, bytes):
        if text.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
            raise _Refused("starts with a byte order mark; plain UTF-8 is wanted")
        try:
            text = text.decode("utf-8")
        except UnicodeDecodeError as fault:
            raise _Refused(f"is not UTF-8 (byte {fault.start})") from None
    if text.startswith("\ufeff"):
        raise _Refused("starts with a byte order mark; plain UTF-8 is wanted")
    if not text.strip():
        raise _Refused("is empty; JSON is wanted")
    return text


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _Refused(f"key {_short(twice)} is given twice")
    return result


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _Refused(f"number {_short(text)} is out of range")
    return value


def _integer(text: str) -> int:
    if len(text) > 20 or int(text) not in INTEGERS:  # 20: the digits of 2**64, and -2**63
        raise _Refused(f"number {_short(text)} is out of range")
    return int(text)


def _no_constant(text: str) -> NoReturn:
    raise _Refused(f"{text} is not a JSON number")


def _check_nesting_and_text(value: Any) -> None:
    level = [value]
    for _ in range(DEPTH + 1):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item)
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
            elif isinstance(item, str):
                _check_text(item)
        if not below:
            return
        level = below
    raise _Refused(f"is nested deeper than {DEPTH} levels")


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise _Refused(f"string {_short(text)} has half of a surrogate pair") from None


def _short(text: str) -> str:
    shown = text if len(text) <= 40 else text[:37] + "..."
    return json.dumps(shown)


def _plain(value: Any, depth: int = 0) -> Any:
    if depth > DEPTH:
        raise ValueError(f"nested deeper than {DEPTH} levels")
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"JSON keys are strings, got {key!r}")
        return {_plain(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return Each(partial(_plain, depth=depth + 1), value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        value.encode("utf-8")  # UnicodeEncodeError, a ValueError, for half of a surrogate pair
        return str(value)
    if isinstance(value, int):
        if value not in INTEGERS:
            raise ValueError(f"{value} does not fit in 64 bits")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} is not a finite number")
        return float(value) + 0.0  # -0.0 becomes 0.0
    raise TypeError(f"not a JSON value: {value!r}")
