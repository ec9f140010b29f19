"""A family's diffusers folder written as one file in the layout that people download: one module a family.

Each has `original(folder)`: the folder's tensors under their names in that file; `BESIDE`, where there are some, names
subfolders that lie beside it.
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


def is_whole(family: str) -> bool:
    """Whether that file is a base; of some families people download one that lacks parts, or is not read."""
    return getattr(import_module(f"tests.single_files.{family}"), "WHOLE", True)
