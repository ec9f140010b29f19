"""A whole model on disk as LoRA sees it: which tensor of which file is the weight of which module.

A single file in its original layout (a transformer alone will do), a diffusers folder, or a transformers folder
(component "model"). No weight is read before it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs
import torch
from torch import Tensor

from runtime import plan
from runtime.errors import InputError, Problem
from runtime.families import family, fewer_bits
from runtime.families.inspect import Found, layout_of, recognised
from runtime.lora_files.keys import WHOLE
from runtime.lora_files.names import Names, Place, names
from runtime.safeio import paths
from runtime.safeio.tensors import TORCH_NAMES, TensorInfo
from runtime.safeio.weights import Weights, open_weights


@attrs.frozen
class Stored:
    """One tensor of a file, or its rows from `first` to before `last` (None: to its end)."""

    file: Path
    name: str
    first: int = 0
    last: int | None = None

    @property
    def is_whole(self) -> bool:
        return (self.first, self.last) == (0, None)


@attrs.frozen(eq=False, kw_only=True)
class Model:
    """`weights`: (component, weight's name there) -> where it is stored, in more than one file where a folder holds
    two precisions. `found`: what the base is; None for a language model, which has no `names` either."""

    path: Path
    layout: plan.Layout
    weights: Mapping[Place, tuple[Stored, ...]]
    found: Found | None
    names: Names | None
    _open: Mapping[Path, Weights]

    def info(self, stored: Stored) -> TensorInfo:
        """Its dtype and shape."""
        whole = self._open[stored.file][stored.name]
        if stored.is_whole:
            return whole
        height, *others = whole.shape
        return attrs.evolve(whole, shape=(len(range(height)[stored.first : stored.last]), *others))

    def load(self, stored: Stored) -> Tensor:
        """Its values. Raises InputError."""
        whole = self._open[stored.file].load(stored.name)
        return whole if stored.is_whole else whole[stored.first : stored.last].clone()

    def listing(self, file: Path) -> dict[str, Tensor]:
        """A file's tensors on the meta device: dtypes and shapes alone."""
        shown = paths.display(file)
        unknown = [name for name, info in self._open[file].items() if info.dtype not in TORCH_NAMES]
        if unknown:
            raise InputError(
                [Problem(shown, f"tensor {name} has a dtype that torch cannot hold") for name in unknown]
            )
        return {
            name: torch.empty(info.shape, dtype=getattr(torch, TORCH_NAMES[info.dtype]), device="meta")
            for name, info in self._open[file].items()
        }

    def metadata(self, file: Path) -> dict[str, str]:
        """What a file says of itself."""
        return dict(self._open[file].metadata)

    @property
    def files(self) -> list[Path]:
        """The files that hold weights a LoRA may change."""
        return list(dict.fromkeys(stored.file for of in self.weights.values() for stored in of))


@contextmanager
def opened(path: Path, sha256: Callable[[Path], str]) -> Iterator[Model]:
    """A whole model, its files open. Raises InputError for what is none, or of no family that lorac knows."""
    with ExitStack() as stack:
        open_: dict[Path, Weights] = {}

        def open_file(file: Path) -> Weights:
            open_[file] = stack.enter_context(open_weights(file))
            return open_[file]

        layout = layout_of(path) if path.exists() else "diffusers"  # inspect says that there is none
        if layout == "gguf":
            hint = "merge into the transformers folder that it was made of, then convert that"
            raise InputError(Problem(paths.display(path), "is a GGUF file, whose weights are packed", hint))
        if layout == "transformers":
            stored = {
                (WHOLE, name): (Stored(file, name),)
                for file in _safetensors(path)
                for name in open_file(file)
            }
            yield Model(path=path, layout="transformers", weights=stored, found=None, names=None, open=open_)
            return
        found = recognised(path, sha256)
        known = names(found.base.family)
        placed = (
            _in_folder(path, known, open_file) if layout == "diffusers" else _in_file(path, found, open_file)
        )
        yield Model(path=path, layout=layout, weights=placed, found=found, names=known, open=open_)


def _in_file(
    path: Path, found: Found, open_file: Callable[[Path], Weights]
) -> dict[Place, tuple[Stored, ...]]:
    file = open_file(path)
    fewer_bits.refuse_scaled(file)
    original = family(found.base.family).original_names(list(file), found.base.architecture)
    return {
        (component, ours): (
            Stored(path, theirs)
            if isinstance(theirs, str)
            else Stored(path, theirs.tensor, theirs.first, theirs.last),
        )
        for component, of in original.items()
        for ours, theirs in of.items()
    }


def _in_folder(
    path: Path, known: Names, open_file: Callable[[Path], Weights]
) -> dict[Place, tuple[Stored, ...]]:
    stored: dict[Place, tuple[Stored, ...]] = {}
    for component in known.kinds:
        for file in _safetensors(path / component):
            for name in open_file(file):
                module, _, leaf = name.rpartition(".")
                place = known.canonical(component, module) or (component, module)
                key = (component, f"{place[1]}.{leaf}")
                stored[key] = (*stored.get(key, ()), Stored(file, name))
    return stored


def _safetensors(folder: Path) -> list[Path]:
    """A folder's weights, plain ones before `NAME.fp16.safetensors`. Raises InputError where there are none."""
    files = sorted(folder.glob("*.safetensors"), key=lambda file: (file.name.count("."), file.name))
    if not files:
        raise InputError(
            Problem(paths.display(folder), "holds no safetensors weights", "take the safetensors variant")
        )
    return files
