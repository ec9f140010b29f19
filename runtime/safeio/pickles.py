"""Checkpoints that `torch.save` wrote (`.ckpt`, `.pt`, `.pth`, `.bin`): the tensors found, nothing run.

- A pickle says which tensors there are; inert_pickle.py reads it. Their bytes lie beside it, in a zip archive
  (torch 1.6 and later) or one after the other behind it (before), and are read when a tensor is loaded.
- Stable Diffusion's checkpoints also hold a trainer's callbacks and settings: placeholders here, and then
  dropped.
- Every claim is checked against the file: a tensor lies inside its storage, a storage inside the file, and
  all tensors together are not much larger than the file.
The layout: pytorch, torch/serialization.py (`_save`, `_legacy_save`) and torch/_utils.py
(`_rebuild_tensor_v2`).
"""

from __future__ import annotations

import io
import os
import struct
from typing import Any

import attrs

from runtime.errors import InputError, Problem
from runtime.safeio import inert_pickle
from runtime.safeio.inert_pickle import BYTES_LIMIT, Damaged, Dead, Known
from runtime.safeio.tensors import BITS, DTYPE_OF, TensorInfo, element_count, extent, shortened
from runtime.safeio.zip_members import Member, read_members

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_VERSION = 1001
MOST_DIMENSIONS = 64
"""Torch's own limit."""

SHARING = 4
"""How many times the file's size its tensors may come to: tied weights share storage, bombs do too."""

STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
    "ComplexFloatStorage": "C64",
}


@attrs.frozen
class _StorageType:
    dtype: str | None
    """None: bytes of no type."""


@attrs.frozen
class _DType:
    name: str


@attrs.frozen
class _Storage:
    key: str
    dtype: str | None
    count: int
    """Elements; bytes where there is no dtype."""


@attrs.frozen
class _Stored:
    """A tensor as the pickle describes it: a view of a storage; offset and strides count elements."""

    storage: _Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@attrs.frozen
class Checkpoint:
    """A checkpoint's tensors by name, in the file's order; its numbers and short texts (`global_step`)."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]


def read_zip(file: io.BufferedReader, where: str) -> Checkpoint:
    """The checkpoint in a zip archive, as torch 1.6 and later write it. Raises InputError."""
    members = read_members(file, where)
    pickles = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(pickles) != 1:
        raise InputError(Problem(where, "is a zip archive but not a checkpoint: it has no data.pkl"))
    root = pickles[0].removesuffix("data.pkl")
    order = members.get(root + "byteorder")
    if order and _bytes(file, order, 16) == b"big":
        raise _big_endian(where)
    pickle = members[pickles[0]]
    size = pickle.end - pickle.start
    try:
        if size > BYTES_LIMIT:
            raise Damaged(f"its data.pkl has {size:,} bytes, {BYTES_LIMIT:,} are allowed")
        value = inert_pickle.read(io.BytesIO(_bytes(file, pickle, size)), TABLE, _Storages())
        stored = _state_dict(value, where)
        storages = {key: members.get(f"{root}data/{key}") for key in _keys(stored)}
        return Checkpoint(_located(stored, storages, _size(file)), _metadata(value))
    except Damaged as why:
        raise inert_pickle.problem(where, why) from None


def read_legacy(file: io.BufferedReader, where: str) -> Checkpoint:
    """The checkpoint in torch's format before 1.6: pickles in a row, then the storages. Raises InputError."""
    file.seek(0)
    data, seen = io.BytesIO(file.read(BYTES_LIMIT)), _Storages()
    try:
        if inert_pickle.read(data, TABLE, seen) != LEGACY_MAGIC:
            hint = "give the model as .safetensors"
            raise InputError(Problem(where, "is a pickle but not a checkpoint that torch.save wrote", hint))
        version, system, value, keys = (inert_pickle.read(data, TABLE, seen) for _ in range(4))
        if version != LEGACY_VERSION:
            raise Damaged("its version is unknown")
        if (inert_pickle.strings_of(system) or {}).get("little_endian") is not True:
            raise _big_endian(where)
        stored = _state_dict(value, where)
        storages = _legacy_storages(file, data.tell(), keys, seen.by_key)
        return Checkpoint(_located(stored, storages, _size(file)), _metadata(value))
    except Damaged as why:
        raise inert_pickle.problem(where, why) from None


def _legacy_storages(
    file: io.BufferedReader, at: int, keys: Any, seen: dict[str, _Storage]
) -> dict[str, Member | None]:
    """Behind the pickles: for each key its number of elements (8 bytes) and its elements."""
    storages: dict[str, Member | None] = {}
    size = _size(file)
    for key in keys if isinstance(keys, list) else []:
        file.seek(at)
        head = file.read(8)
        if type(key) is not str or key not in seen or len(head) < 8:
            break  # what follows a storage of unknown type cannot be found
        (count,) = struct.unpack("<Q", head)
        end = at + 8 + count * BITS[seen[key].dtype or "U8"] // 8
        if end > size:
            break
        storages[key] = Member(at + 8, end)
        at = end
    return storages


def _located(
    stored: dict[str, _Stored], storages: dict[str, Member | None], file_size: int
) -> dict[str, TensorInfo]:
    """Where each tensor's bytes are, checked against its storage and the file."""
    result: dict[str, TensorInfo] = {}
    total = 0
    for name, tensor in stored.items():
        member, width = storages.get(tensor.storage.key), BITS[tensor.dtype] // 8
        if member is None:
            raise Damaged(f"the bytes of tensor {shortened(name)} are missing")
        room = member.end - member.start
        if tensor.storage.count * (BITS[tensor.storage.dtype or "U8"] // 8) != room:
            raise Damaged(f"the storage of tensor {shortened(name)} is not as long as it claims")
        reach = tensor.offset + extent(tensor.shape, tensor.strides)
        count = element_count(tensor.shape, room)
        if (count and reach * width > room) or count * width > room:
            raise Damaged(f"tensor {shortened(name)} is larger than its storage")
        total += count * width
        strides = None if _contiguous(tensor) else tensor.strides
        result[name] = TensorInfo(tensor.dtype, tensor.shape, member.start + tensor.offset * width, strides)
    if total > SHARING * file_size:
        raise Damaged(f"its tensors come to {total:,} bytes in a file of {file_size:,}")
    return result


def _state_dict(value: Any, where: str) -> dict[str, _Stored]:
    """The tensors under `state_dict`, or else at the top."""
    top = inert_pickle.strings_of(value)
    inner = inert_pickle.strings_of((top or {}).get("state_dict"))
    for candidate in (inner, top):
        found = {name: item for name, item in (candidate or {}).items() if isinstance(item, _Stored)}
        if found:
            return found
    what = "holds no tensors by name, neither at its top nor under state_dict"
    if top:
        what += f" (it has {', '.join(shortened(name) for name in list(top)[:8])})"
    raise InputError(Problem(where, what, "convert it to safetensors"))


def _metadata(value: Any) -> dict[str, str]:
    top = inert_pickle.strings_of(value) or {}
    return {
        name: str(item)
        for name, item in top.items()
        if type(item) in (int, float) or (type(item) is str and len(item) <= 200)
    }


def _keys(stored: dict[str, _Stored]) -> set[str]:
    return {tensor.storage.key for tensor in stored.values()}


def _contiguous(tensor: _Stored) -> bool:
    expected = 1
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


@attrs.frozen
class _Storages:
    """Persistent ids: ("storage", type, key, device, count[, view: before torch 0.4])."""

    by_key: dict[str, _Storage] = attrs.field(factory=dict)

    def __call__(self, value: Any) -> Any:
        match value:
            case ("storage", _StorageType(dtype=dtype), str(key), _, int(count), *view) if count >= 0:
                storage = _Storage(key, dtype, count)
                if self.by_key.setdefault(key, storage) != storage:
                    raise Damaged("it gives a storage two types or sizes")
                return storage if view in ([], [None]) else Dead("a view of a storage")
        return Dead("a persistent id")


def _rebuild_tensor(arguments: tuple[Any, ...]) -> Any:
    """torch._utils._rebuild_tensor(_v2)(storage, offset, shape, strides, …)."""
    match arguments:
        case (_Storage(dtype=str(dtype)) as storage, offset, shape, strides, *_):
            return _stored(storage, dtype, offset, shape, strides)
    return Dead("a tensor of a kind that is not read")


def _rebuild_tensor_v3(arguments: tuple[Any, ...]) -> Any:
    """torch._utils._rebuild_tensor_v3(storage, offset, shape, strides, requires_grad, hooks, dtype, …)."""
    match arguments:
        case (_Storage(dtype=None) as storage, offset, shape, strides, _, _, _DType(name=dtype), *_):
            return _stored(storage, dtype, offset, shape, strides)
    return Dead("a tensor of a kind that is not read")


def _stored(storage: _Storage, dtype: str, offset: Any, shape: Any, strides: Any) -> _Stored:
    if not (_counts(shape) and _counts(strides) and _counts((offset,))):
        raise Damaged("a tensor's shape, strides or offset is not made of counts")
    if len(shape) != len(strides) or len(shape) > MOST_DIMENSIONS:
        raise Damaged("a tensor's shape and strides do not fit together")
    return _Stored(storage, dtype, offset, shape, strides)


def _counts(value: Any) -> bool:
    if not isinstance(value, tuple) or len(value) > MOST_DIMENSIONS:
        return False
    return all(type(item) is int and 0 <= item < 2**63 for item in value)


def _first(arguments: tuple[Any, ...]) -> Any:
    return arguments[0] if arguments else Dead("nothing")


def _size(file: io.BufferedReader) -> int:
    return os.fstat(file.fileno()).st_size


def _bytes(file: io.BufferedReader, member: Member, most: int) -> bytes:
    file.seek(member.start)
    return file.read(min(member.end - member.start, most))


def _big_endian(where: str) -> InputError:
    what = "was written on a big-endian machine, which lorac does not read"
    return InputError(Problem(where, what, "convert it to safetensors there"))


TABLE: inert_pickle.Table = {
    ("collections", "OrderedDict"): Known(lambda arguments: {}),
    ("torch", "Size"): Known(_first),
    ("torch._utils", "_rebuild_tensor"): Known(_rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): Known(_rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v3"): Known(_rebuild_tensor_v3),
    ("torch._utils", "_rebuild_parameter"): Known(_first),
    ("torch._utils", "_rebuild_parameter_with_state"): Known(_first),
    ("torch.storage", "UntypedStorage"): _StorageType(None),
    **{("torch", storage): _StorageType(dtype) for storage, dtype in STORAGES.items()},
    **{("torch", name): _DType(dtype) for name, dtype in DTYPE_OF.items()},
}
"""All that a checkpoint's pickle can name and not get a placeholder for."""
