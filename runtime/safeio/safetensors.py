"""Safetensors files: the header read and checked without the tensors; written so that equal input gives
equal bytes.

- Reading refuses each malformation with its own line, before anything is allocated: what the file claims is
  compared with how long it is. The format: https://github.com/huggingface/safetensors#format
- Writing puts the body in the library's order (by dtype, then name), so that the hash over the body is the
  one that others compute, and the metadata in sorted order, which the library leaves to chance.
- Needs torch only to write tensors. To load them, see weights.py.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import struct
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import attrs

from runtime.errors import DivergedError, InputError, Problem
from runtime.safeio import strict_json
from runtime.safeio.atomic import writing
from runtime.safeio.paths import display, open_file
from runtime.safeio.tensors import BITS, ORDER, TensorInfo, dtype_name, element_count, shortened, shown_shape

if TYPE_CHECKING:
    import torch

MAX_HEADER = 100_000_000
"""Bytes; the format's own limit (safetensors `tensor.rs`)."""

WEBUI_HEADER = 2**20
"""Bytes of a header that every consumer still reads (ComfyUI's /view_metadata; facts/outputs.md rule 11)."""

FETCH_AGAIN = "fetch the file again"


@attrs.frozen
class Header:
    """A file's tensors by name, in the order of their bytes; its metadata; the offset of its body."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    body: int


def read_header(path: str | os.PathLike[str]) -> Header:
    """The checked header of a file; no tensor is read. Raises InputError that says which rule is broken."""
    with open_file(path) as file:
        return header_of(file, display(path))


def header_of(file: io.BufferedReader, where: str) -> Header:
    """`read_header` of a file that is open, from its first byte on."""
    size = os.fstat(file.fileno()).st_size
    if size < 8:
        raise _bad(where, f"is {size} bytes long, too short for a safetensors file", FETCH_AGAIN)
    (length,) = struct.unpack("<Q", file.read(8))
    if length > MAX_HEADER:
        raise _bad(where, f"claims a header of {length:,} bytes; at most {MAX_HEADER:,} are allowed")
    body = 8 + length
    if body > size:
        raise _bad(where, f"is truncated: {size:,} bytes, and its header alone ends at {body:,}", FETCH_AGAIN)
    text = file.read(length)
    if not text.startswith(b"{"):
        raise _bad(where, "is not a safetensors file: its header does not start with `{`")
    entries = strict_json.loads(text, f"{where}: header", limit=MAX_HEADER)
    metadata = _metadata(entries.pop("__metadata__", {}), where)
    spans = {name: _span(name, entry, where) for name, entry in entries.items()}
    spans = dict(sorted(spans.items(), key=lambda item: item[1]))
    _check_layout(spans, size - body, size, where)
    tensors = {
        name: TensorInfo(entries[name]["dtype"], tuple(entries[name]["shape"]), body + start)
        for name, (start, _) in spans.items()
    }
    return Header(tensors, metadata, body)


def body_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of the bytes after the header: kohya's `sshs_model_hash`, Civitai's AutoV3 (12 digits)."""
    header = read_header(path)
    with open_file(path) as file:
        file.seek(header.body)
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(
    path: str | os.PathLike[str],
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    finite: bool = True,
    header_limit: int = MAX_HEADER,
) -> None:
    """Write tensors (any strides, any device), atomically: equal tensors and metadata give equal bytes.

    `finite`: refuse NaN and infinity, with DivergedError naming every such tensor. A header longer than
    `header_limit` bytes (WEBUI_HEADER for what others will read) raises InputError; a fault of the disk
    MachineError.
    """
    if finite:
        _check_finite(tensors, display(path))
    header = _header(tensors, metadata or {})
    if len(header) > header_limit:
        what = f"needs a header of {len(header):,} bytes, and readers take at most {header_limit:,}"
        raise _bad(display(path), what, "shorten the metadata")
    size = 8 + len(header) + sum(tensor.nbytes for tensor in tensors.values())
    with writing(path, size) as file:
        for part in _parts(header, tensors):
            file.write(part)


def serialise(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """The bytes that `write` puts in a file, without its checks."""
    return b"".join(_parts(_header(tensors, metadata or {}), tensors))


def _parts(header: bytes, tensors: Mapping[str, torch.Tensor]) -> Iterator[bytes | memoryview]:
    import torch

    yield struct.pack("<Q", len(header))
    yield header
    for name in _in_order(tensors):
        if tensors[name].numel():  # an empty one may have a stride that it cannot be viewed with
            flat = tensors[name].detach().cpu().contiguous().reshape(-1)
            yield flat.view(torch.uint8).numpy().data


def _header(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"metadata holds strings only, got {key!r}: {value!r}")
    if "__metadata__" in tensors:
        raise ValueError("a tensor cannot be called __metadata__")
    entries: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    offset = 0
    for name in _in_order(tensors):
        tensor = tensors[name]
        offsets = [offset, offset + tensor.nbytes]
        entries[name] = {
            "dtype": dtype_name(tensor.dtype),
            "shape": list(tensor.shape),
            "data_offsets": offsets,
        }
        offset += tensor.nbytes
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    return text + b" " * (-len(text) % 8)


def _in_order(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    return sorted(tensors, key=lambda name: (ORDER[dtype_name(tensors[name].dtype)], name))


def _check_finite(tensors: Mapping[str, torch.Tensor], where: str) -> None:
    problems = []
    for name in sorted(tensors):
        tensor = tensors[name]
        if tensor.is_floating_point() or tensor.is_complex():
            # float8 has no isfinite of its own
            wide = tensor.detach().float() if tensor.dtype.itemsize == 1 else tensor.detach()
            bad = int((~wide.isfinite()).sum())
            if bad:
                what = f"not written: {bad:,} of {tensor.numel():,} values of {name} are not finite"
                problems.append(Problem(where, what, "lower the learning rate"))
    if problems:
        raise DivergedError(problems)


def _metadata(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise _bad(where, "has metadata that is not a table of strings")
    return value


def _span(name: str, entry: Any, where: str) -> tuple[int, int]:
    """One tensor's claims, each checked by itself: types, dtype, and that the shape makes up its bytes."""
    tensor = f"tensor {shortened(name)}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _bad(where, f"{tensor} must have dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise _bad(where, f"{tensor} has the unknown dtype {shortened(str(dtype))}")
    if not _counts(shape):
        raise _bad(where, f"{tensor} has a shape that is not a list of sizes")
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _bad(where, f"{tensor} has data_offsets that are not a start and an end")
    span = offsets[1] - offsets[0]
    bits = element_count(shape, 8 * span) * BITS[dtype]
    if bits != 8 * span:
        needs = f"{math.ceil(bits / 8):,} bytes" if bits <= 64 * span else "more"
        what = f"{tensor}: {dtype} {shown_shape(shape)} needs {needs}, its data_offsets span {span:,}"
        raise _bad(where, what)
    return offsets[0], offsets[1]


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _check_layout(spans: dict[str, tuple[int, int]], body: int, size: int, where: str) -> None:
    """The tensors follow one another and fill the body: no byte is shared, none is hidden from readers."""
    last, before = 0, ""
    for name, (start, end) in spans.items():
        if start < last:
            raise _bad(where, f"tensors {shortened(before)} and {shortened(name)} overlap")
        if start > last:
            raise _bad(where, f"{start - last:,} bytes before tensor {shortened(name)} belong to no tensor")
        last, before = end, name
    if last > body:
        raise _bad(where, f"is truncated: {size:,} bytes, expected {size - body + last:,}", FETCH_AGAIN)
    if last < body:
        raise _bad(where, f"has {body - last:,} bytes after the last tensor that belong to no tensor")


def _bad(where: str, what: str, hint: str = "") -> InputError:
    return InputError(Problem(where, what, hint))
