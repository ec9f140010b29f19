"""A family's diffusers folder written as one file in the layout that people download: one module a family.

Each has `original(folder)`: the folder's tensors under their names in that file; `BESIDE`, where there are some, names
subfolders that lie beside it; `APART`, where people download the components one by one, says of each what its names
begin with there.
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


def write_apart(family: str, folder: Path, root: Path) -> dict[str, Path]:
    """The folder of that family as a file for each component, and its vocabulary's folder: what each holds -> there."""
    layout = import_module(f"tests.single_files.{family}")
    tensors = layout.original(folder)
    places = {}
    for component, prefix in layout.APART.items():
        places[component] = root / f"{component}.safetensors"
        mine = {name.removeprefix(prefix): one for name, one in tensors.items() if name.startswith(prefix)}
        save_file(mine, places[component])
    return places | {name: folder / name for name in layout.BESIDE}


def comes_apart(family: str) -> bool:
    """Whether people download that family's components one by one."""
    return hasattr(import_module(f"tests.single_files.{family}"), "APART")
