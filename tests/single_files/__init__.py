"""A family's diffusers folder written as one file in the layout that people download: one module a family.

Each has `original(folder)`: the folder's tensors under their names in that file.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from safetensors.torch import save_file


def write(family: str, folder: Path, path: Path) -> Path:
    """The folder of that family as one `.safetensors`."""
    save_file(import_module(f"tests.single_files.{family}").original(folder), path)
    return path
