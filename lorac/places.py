"""Where lorac keeps what it made before, and what that depends on. No torch."""

from __future__ import annotations

import hashlib
import os
from functools import cache
from importlib.metadata import version
from pathlib import Path

from runtime.safeio import digest

PACKAGES = ("torch", "diffusers", "transformers", "peft", "pillow")
"""Whose versions can change the trained bytes."""

CODE = [Path(__file__).parent, Path(__file__).parents[1] / "runtime"]


def cache_folder() -> Path:
    """Where digests, latents, traces and plans are kept between runs: $LORAC_CACHE or ~/.cache/lorac."""
    return Path(os.environ.get("LORAC_CACHE") or Path.home() / ".cache" / "lorac")


def versions(*more: str) -> dict[str, str]:
    """Package -> version, without the local part ("+cu130") that differs between builds of the same code."""
    return {name: version(name).partition("+")[0] for name in (*PACKAGES, *more)}


@cache
def code_digest() -> str:
    """Over our own source and data files: what was made by other code is not trusted."""
    files = sorted(file for folder in CODE for file in folder.rglob("*") if file.suffix in (".py", ".json"))
    return hashlib.sha256("".join(digest.sha256_file(file) for file in files).encode()).hexdigest()
