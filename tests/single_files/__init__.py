"""A family's diffusers folder written as one file in the layout that people download: one module a family.

Each has `original(folder)`: the folder's tensors under their names in that file; `BESIDE`, where there are some, names
subfolders that lie beside it; `NO_BASE` says of a file that is refused why it is.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from shutil import copytree

from safetensors.torch import save_file


def write(family: str, folder: Path, path: Path) -> Path:
    """The folder of that family as one `.safetensors`."""
    layout = import_module(f"tests.single_files.{family}")
    save_file(layout.original(folder), path)
    for name in getattr(layout, "BESIDE", ()):
        copytree(folder / name, path.parent / name)
    return path


def no_base(family: str) -> str:
    """Why that file is refused as a base; empty where it is one."""
    return getattr(import_module(f"tests.single_files.{family}"), "NO_BASE", "")
