"""Pictures that were decoded whole before, by sha256, with their size: a second plan need not decode them.

One line a picture, `sha256 width height`, appended; what is no such line counts for nothing. Several
processes may append at once.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from runtime.errors import InputError
from runtime.safeio import paths

NAME = "whole-pictures-1.txt"
"""The number is to be raised when runtime/safeio/images.py takes or turns pictures differently."""

LINE = re.compile(rb"^([0-9a-f]{64}) ([1-9][0-9]{0,8}) ([1-9][0-9]{0,8})$", re.MULTILINE)

Size = tuple[int, int]


def read(cache: Path) -> dict[str, Size]:
    """Size (width, height) as shown by the file's sha256."""
    try:
        with paths.open_file(cache / NAME) as file:
            data = file.read()
    except InputError:
        return {}
    return {sha256.decode(): (int(width), int(height)) for sha256, width, height in LINE.findall(data)}


def add(cache: Path, sizes: dict[str, Size]) -> None:
    """Remember pictures that were decoded whole."""
    if not sizes:
        return
    lines = "".join(f"{sha256} {width} {height}\n" for sha256, (width, height) in sizes.items())
    cache.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(cache / NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        os.write(descriptor, ("\n" + lines).encode())  # the newline ends a line that a crash cut short
    finally:
        os.close(descriptor)
