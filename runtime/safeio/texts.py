"""Texts from strangers: strict UTF-8, whatever the locale."""

from __future__ import annotations

from pathlib import Path

from runtime.errors import InputError, Problem
from runtime.safeio import paths


def decode(data: bytes, path: Path) -> str:
    """Strict UTF-8, a byte order mark apart. Raises InputError with the offset of the first wrong byte."""
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        what = f"is not UTF-8 (byte {error.start} is 0x{data[error.start]:02x})"
        raise InputError(Problem(paths.display(path), what, "save it as UTF-8")) from None
