"""Where lorac keeps what it made before, and what that depends on. No torch."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from runtime.safeio import digest
from runtime.safeio.paths import cache_folder as cache_folder

PACKAGES = ("torch", "diffusers", "transformers", "peft", "pillow")
"""Whose versions can change the trained bytes."""

TEXT_PACKAGES = ("jinja2", "tokenizers")
"""Whose versions can, besides, where a language model learns: they make its tokens."""

GGUF = "gguf"
"""Whose version can where the base is a GGUF file: it makes numbers of what is quantised there."""

CODE = [Path(__file__).parent, Path(__file__).parents[1] / "runtime"]


def versions(*more: str) -> dict[str, str]:
    """Package -> version of `PACKAGES` and `more`, without the local part ("+cu130") that differs between builds of the
    same code; an extra that is not installed is left out."""
    found = {}
    for name in (*PACKAGES, *more):
        with suppress(PackageNotFoundError):
            found[name] = version(name).partition("+")[0]
    return found


@cache
def code_digest() -> str:
    """Over our own source and data files: what was made by other code is not trusted."""
    files = sorted(file for folder in CODE for file in folder.rglob("*") if file.suffix in (".py", ".json"))
    return hashlib.sha256("".join(digest.sha256_file(file) for file in files).encode()).hexdigest()
