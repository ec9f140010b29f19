"""Encoded pictures and captions on disk, by content key: whole or not there, and never stale.

- One safetensors file an entry, in 256 folders by the key's first byte. The key says all that decides the
  content, so an entry never has to be thrown away because something changed.
- An entry carries its key and the sha256 of its tensors: what was cut short, damaged, or put under another's name
  counts as missing.
- What was read or written stays in memory up to a budget; beyond it, entries are read again from the disk.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from runtime.errors import InputError
from runtime.families.protocol import Batch
from runtime.safeio import safetensors
from runtime.safeio.weights import open_weights

BUDGET = 2 * 2**30
"""Bytes of entries that are kept in memory: those of some 5,000 pictures of SD 1.5 at 512 pixels."""


class Entries:
    """A folder of entries. `damaged` counts those that were there but not whole."""

    def __init__(self, folder: Path, budget: int = BUDGET) -> None:
        self.folder = folder
        self.damaged = 0
        self._left = budget
        self._kept: dict[str, Batch] = {}

    def read(self, key: str) -> Batch | None:
        """The entry's tensors, on the CPU; None if there is none that is whole."""
        if key in self._kept:
            return self._kept[key]
        path = self._path(key)
        if not path.exists():
            return None
        try:
            with open_weights(path) as file:
                tensors = {name: file.load(name) for name in file}
                said = file.metadata
        except InputError:
            said, tensors = {}, {}
        if said != _marks(key, tensors):
            self.damaged += 1
            return None
        self._keep(key, tensors)
        return tensors

    def write(self, key: str, tensors: Batch) -> None:
        """Put an entry there, whole or not at all. Raises MachineError."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        safetensors.write(path, tensors, _marks(key, tensors), finite=False)
        self._keep(key, tensors)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def _keep(self, key: str, tensors: Batch) -> None:
        size = sum(tensor.nbytes for tensor in tensors.values())
        if size <= self._left:
            self._left -= size
            self._kept[key] = tensors


def _marks(key: str, tensors: Batch) -> dict[str, str]:
    """An entry's metadata. The sha256 is of the file that the tensors make without any; its header holds names,
    dtypes, shapes."""
    return {"key": key, "sha256": hashlib.sha256(safetensors.serialise(tensors)).hexdigest()}
