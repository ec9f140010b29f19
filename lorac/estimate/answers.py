"""Answers for a step that asks a fake tensor for its values.

A fake tensor has a shape and no values, so `.item()`, `bool(tensor)` and boolean indexing cannot be answered
from it. Memory seldom depends on the answer; where it does, the answer that takes most is given:
- a number is 1, a truth value is False ("is anything wrong?", "may this mask be skipped?": no);
- a single uniform random number is 0.5, and what is computed from it alone is known ("drop this layer?");
- so is what is computed from `arange` alone, in whole numbers and few ("do these positions run through?");
- `nonzero`, boolean indexing and `masked_select` choose every element.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._mode_utils import no_dispatch
from torch.utils._pytree import tree_leaves, tree_map_only

aten = torch.ops.aten

FEW = 2**16
"""The most elements whose values are followed: more take longer to compute than the question is worth."""

RAND = aten.rand.default
ARANGE = (aten.arange.default, aten.arange.start, aten.arange.start_step)
WHOLE = (torch.int64, torch.int32, torch.bool)


def _scalar(tensor: torch.Tensor) -> bool | int | float | complex:
    known = getattr(tensor, "constant", None)
    if known is None:
        known = getattr(tensor, "followed", None)
    if known is not None:
        with no_dispatch():
            return known.item()
    if tensor.dtype is torch.bool:
        return False
    if tensor.dtype.is_complex:
        return complex(1)
    return 1.0 if tensor.dtype.is_floating_point else 1


def _nonzero(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.new_empty((tensor.numel(), tensor.dim()), dtype=torch.int64)


def _index(tensor: torch.Tensor, indices: list[torch.Tensor | None]) -> torch.Tensor:
    return aten.index.Tensor(tensor, _chosen(indices))


def _index_put(tensor: torch.Tensor, *_: Any) -> torch.Tensor:
    return torch.empty_like(tensor)


def _index_put_(tensor: torch.Tensor, *_: Any) -> torch.Tensor:
    return tensor


def _masked_select(tensor: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return tensor.new_empty(torch.broadcast_shapes(tensor.shape, mask.shape)).flatten()


def _grouped_mm(left: torch.Tensor, right: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    """A mixture's experts, (tokens, in) by (experts, in, out), whose meta kernel takes no float32: the CPU's does."""
    return left.new_empty(left.shape[0], right.shape[-1])


def _joined_loss(left: torch.Tensor, right: torch.Tensor, *_: Any) -> torch.Tensor:
    """A mean or sum that keeps the storage of the losses that it is made of: the kernel writes them to its output,
    then gives that the shape of a scalar (`TORCH_META_FUNC(mse_loss)`,
    aten/src/ATen/native/Loss.cpp). torch's own stand-in makes a scalar at once."""
    dtype = torch.promote_types(left.dtype, right.dtype)
    return left.new_empty(torch.broadcast_shapes(left.shape, right.shape), dtype=dtype).resize_(())


def _chosen(indices: list[torch.Tensor | None]) -> list[torch.Tensor | None]:
    """Boolean masks as the index tensors that choose every element."""
    chosen: list[torch.Tensor | None] = []
    for index in indices:
        if index is None or index.dtype not in (torch.bool, torch.uint8):
            chosen.append(index)
        else:
            chosen += [index.new_empty(index.numel(), dtype=torch.int64) for _ in range(index.dim())]
    return chosen


def _has_mask(args: tuple[Any, ...]) -> bool:
    return any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])


ALWAYS: dict[Any, Callable[..., Any]] = {
    aten._local_scalar_dense.default: _scalar,
    aten.is_nonzero.default: lambda tensor: bool(_scalar(tensor)),
    aten.equal.default: lambda left, right: False,
    aten.nonzero.default: _nonzero,
    aten.masked_select.default: _masked_select,
}
WITH_A_MASK: dict[Any, Callable[..., Any]] = {
    aten.index.Tensor: _index,
    aten.index_put.default: _index_put,
    aten.index_put_.default: _index_put_,
}


MEAN = 1
"""`at::Reduction::Mean`, what losses do unless told otherwise (aten/src/ATen/core/Reduction.h)."""

JOINED_LOSSES = (aten.mse_loss.default, aten.smooth_l1_loss.default)


def follow(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Remember an operator's values where they are known, so that a choice made by them can be followed."""
    if not isinstance(out, FakeTensor):
        return
    if func is RAND and out.numel() == 1:
        with no_dispatch():
            out.constant = torch.full(out.shape, 0.5, dtype=out.dtype)
        out.fake_mode.fake_tensor_converter.add_constant_storage_mapping(out)
    elif out.dtype in WHOLE and out.numel() <= FEW:
        _follow(func, args, kwargs, out)


def _follow(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    if func._schema.is_mutable:
        for tensor in given:
            tensor.__dict__.pop("followed", None)
    elif func in ARANGE or (given and all(hasattr(tensor, "followed") for tensor in given)):
        with no_dispatch():
            known = tree_map_only(torch.Tensor, lambda tensor: tensor.followed, (args, kwargs))
            out.followed = func(*known[0], **known[1])


def _experts_in_float32(args: tuple[Any, ...]) -> bool:
    return args[0].dtype is torch.float32 and (args[0].dim(), args[1].dim()) == (2, 3)


def asks(func: Any) -> bool:
    """Whether `func` ever needs a stand-in."""
    return func is aten._grouped_mm.default or func in (*JOINED_LOSSES, *WITH_A_MASK, *ALWAYS)


def answer(func: Any, args: tuple[Any, ...]) -> Callable[..., Any] | None:
    """The stand-in for `func` on fake tensors, or None if it needs none."""
    if func is aten._grouped_mm.default:
        return _grouped_mm if _experts_in_float32(args) else None
    if func in JOINED_LOSSES:
        reduction = args[2] if len(args) > 2 else MEAN
        return _joined_loss if reduction else None
    if func in WITH_A_MASK:
        return WITH_A_MASK[func] if _has_mask(args) else None
    return ALWAYS.get(func)
