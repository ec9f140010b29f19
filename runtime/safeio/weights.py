"""The one door to weights: a safetensors file or a checkpoint, told apart by their bytes, not their names."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from runtime.errors import InputError, Problem
from runtime.safeio import pickles, safetensors, tensors
from runtime.safeio.impostors import refuse_impostor
from runtime.safeio.paths import display, open_file
from runtime.safeio.tensors import TensorInfo

if TYPE_CHECKING:
    import torch


class Weights(Mapping[str, TensorInfo]):
    """An open file of weights: a mapping from tensor names to dtype and shape; tensors are read by `load`
    alone.

    Use it in a `with` block, or `close` it. One thread at a time.
    """

    def __init__(
        self, file: io.BufferedReader, where: str, infos: dict[str, TensorInfo], metadata: dict[str, str]
    ) -> None:
        self.where = where
        self.metadata = metadata
        self._file = file
        self._infos = infos

    def __getitem__(self, name: str) -> TensorInfo:
        return self._infos[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._infos)

    def __len__(self) -> int:
        return len(self._infos)

    def load(self, name: str) -> torch.Tensor:
        """One tensor, contiguous, on the CPU. Raises InputError, also where there is none of that name."""
        if name not in self._infos:
            raise InputError(Problem(self.where, f"has no tensor {tensors.shortened(name)}"))
        return tensors.load(self._file, self._infos[name], self.where, name)

    def close(self) -> None:
        """Close the file; the listing stays."""
        self._file.close()

    def __enter__(self) -> Weights:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_weights(path: str | os.PathLike[str]) -> Weights:
    """The weights in a file, header checked, no tensor read. Raises InputError that says what the file is."""
    where = display(path)
    file = open_file(path)
    try:
        infos, metadata = _read(file, Path(path).suffix, where)
        return Weights(file, where, infos, metadata)
    except OSError as error:
        file.close()
        raise InputError(Problem(where, f"cannot be read: {error.strerror}", "check the disk")) from error
    except BaseException:
        file.close()
        raise


def _read(file: io.BufferedReader, suffix: str, where: str) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    size = os.fstat(file.fileno()).st_size
    head = file.read(512)
    file.seek(0)
    refuse_impostor(head, size, "model", where)
    if head.lstrip().startswith((b"{", b"[")):
        raise InputError(Problem(where, "is JSON text, not weights", "give the .safetensors or .ckpt file"))
    if head.startswith(b"GGUF"):
        what = "is a GGUF file, whose quantised weights lorac does not train on"
        raise InputError(Problem(where, what, "give the .safetensors file"))
    if head.startswith(b"PK\x03\x04"):
        checkpoint = pickles.read_zip(file, where)
        return checkpoint.tensors, checkpoint.metadata
    if head.startswith(b"\x80") and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05") and head[8:9] != b"{":
        checkpoint = pickles.read_legacy(file, where)
        return checkpoint.tensors, checkpoint.metadata
    if suffix == ".safetensors" or _may_be_safetensors(head):
        header = safetensors.header_of(file, where)
        return header.tensors, header.metadata
    raise InputError(Problem(where, "is neither a safetensors file nor a checkpoint of torch.save"))


def _may_be_safetensors(head: bytes) -> bool:
    return len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] <= safetensors.MAX_HEADER
