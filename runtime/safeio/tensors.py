"""What a file says of a tensor, and the tensor made from it: the part that both weight formats share.

- Dtypes go by safetensors' names (`F32`, `BF16`), so that a header can be read without torch.
- Bytes are read, not mapped: a file that is cut short during a run is then an error and not a dead process.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs

from runtime.errors import InputError, Problem

if TYPE_CHECKING:
    import torch

BITS = {
    # In the order that the safetensors library sorts by, first to last in the body (measured, 0.8.0).
    "U64": 64,
    "I64": 64,
    "F64": 64,
    "C64": 64,
    "F32": 32,
    "U32": 32,
    "I32": 32,
    "BF16": 16,
    "F16": 16,
    "U16": 16,
    "I16": 16,
    "F8_E5M2FNUZ": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E8M0": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "I8": 8,
    "U8": 8,
    "F6_E3M2": 6,
    "F6_E2M3": 6,
    "F4": 4,
    "BOOL": 8,
}
"""Bits of one element, by the format's dtype names."""

ORDER = {dtype: rank for rank, dtype in enumerate(BITS)}

TORCH_NAMES = {
    "U64": "uint64",
    "I64": "int64",
    "F64": "float64",
    "C64": "complex64",
    "F32": "float32",
    "U32": "uint32",
    "I32": "int32",
    "BF16": "bfloat16",
    "F16": "float16",
    "U16": "uint16",
    "I16": "int16",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
"""Torch's name for each dtype of which torch can hold one element."""

DTYPE_OF = {name: dtype for dtype, name in TORCH_NAMES.items()}


@attrs.frozen
class TensorInfo:
    """One tensor of a file: dtype by safetensors' name, shape, and where its bytes are.

    `start` is the offset in the file of its first element; `strides` count elements, None where it is
    contiguous.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int
    strides: tuple[int, ...] | None = None

    @property
    def extent(self) -> int:
        """Elements from the first to the last in the file, gaps between them included."""
        return extent(self.shape, self.strides)


def load(file: io.BufferedReader, info: TensorInfo, where: str, name: str) -> torch.Tensor:
    """The tensor itself, contiguous, on the CPU, owning its memory. Raises InputError naming the tensor."""
    import torch

    if info.dtype not in TORCH_NAMES:
        what = f"tensor {shortened(name)} has dtype {info.dtype}, which torch cannot hold"
        raise InputError(Problem(where, what, "convert it to F16"))
    dtype = getattr(torch, TORCH_NAMES[info.dtype])
    if info.extent == 0:
        return torch.empty(info.shape, dtype=dtype)
    buffer = bytearray(info.extent * BITS[info.dtype] // 8)
    try:
        file.seek(info.start)
        filled = _fill(file, buffer)
    except OSError as error:
        raise InputError(Problem(where, f"cannot be read: {error.strerror}", "check the disk")) from error
    if filled < len(buffer):
        what = f"was cut short while being read: tensor {shortened(name)} is not whole"
        raise InputError(Problem(where, what, "restore the file"))
    flat = torch.frombuffer(buffer, dtype=dtype)
    if info.strides is None:
        return flat.reshape(info.shape)
    return flat.as_strided(info.shape, info.strides).contiguous()


def _fill(file: io.BufferedReader, buffer: bytearray) -> int:
    """How much of the buffer could be filled: one read returns 2 GiB at most (Linux)."""
    view, filled = memoryview(buffer), 0
    while filled < len(buffer):
        count = file.readinto(view[filled:])
        if not count:
            break
        filled += count
    return filled


def dtype_name(dtype: torch.dtype) -> str:
    """Safetensors' name of a torch dtype. Raises TypeError where the format has none."""
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPE_OF:
        raise TypeError(f"safetensors has no dtype for {dtype}")
    return DTYPE_OF[name]


def element_count(shape: Sequence[int], limit: int) -> int:
    """The product of a shape's sizes, or limit + 1 if it is above the limit: no product grows without end."""
    if 0 in shape:
        return 0
    count = 1
    for size in shape:
        count *= size
        if count > limit:
            return limit + 1
    return count


def extent(shape: Sequence[int], strides: Sequence[int] | None) -> int:
    """Elements that a tensor spans in its storage."""
    if 0 in shape:
        return 0
    if strides is not None:
        return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    count = 1
    for size in shape:
        count *= size
    return count


def shortened(name: str) -> str:
    """A name from a file as messages show it, not longer than 80 characters."""
    return name if len(name) <= 80 else name[:77] + "..."


def shown_shape(shape: Sequence[int]) -> str:
    """A shape as messages show it, not longer than 8 sizes."""
    return "[" + ", ".join(map(str, shape[:8])) + (", ...]" if len(shape) > 8 else "]")
