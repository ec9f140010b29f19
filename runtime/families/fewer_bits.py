"""Files whose weights were put in fewer bits: fp8 is read, with or without a scale; what is packed tighter is refused.

| written by | beside `X.weight` in fp8 |
| --- | --- |
| a plain cast | nothing |
| ComfyUI's `fp8_scaled` | `X.scale_weight`, `X.scale_input`, once `scaled_fp8` |
| ComfyUI since its mixed precision | `X.weight_scale`, `X.input_scale`, `X.comfy_quant` |

A weight is its numbers times the scale (`convert_old_quants` of ComfyUI's comfy/utils.py names both); what was measured
of inputs is for products in fp8 and changes no weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from runtime.errors import InputError, Problem
from runtime.safeio.tensors import TensorInfo, shortened
from runtime.safeio.weights import Weights

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SCALES = (".scale_weight", ".weight_scale")
BESIDE = (*SCALES, ".scale_input", ".input_scale", ".comfy_quant")
MARK = "scaled_fp8"
PACKED = ("U8", "I8", "I32", "U32", "F4")
"""What a weight's numbers are kept in where several are in one, or levels stand for them (nvfp4, int8, svdquant)."""


def names(file: Mapping[str, TensorInfo]) -> list[str]:
    """The file's weights, without what stands beside some of them."""
    return [name for name in file if not (name.endswith(BESIDE) or name.rpartition(".")[2] == MARK)]


def refuse_packed(file: Weights) -> None:
    """Raise InputError for weights in fewer bits than fp8 has, or in levels."""
    packed = [name for name, info in file.items() if name.endswith("weight") and info.dtype in PACKED]
    if packed:
        what = f"holds {len(packed)} weights in another form than floats: {shortened(packed[0])} is "
        hint = "take the same model in bf16, fp16 or fp8"
        raise InputError(Problem(file.where, f"{what}{file[packed[0]].dtype}", hint))


def refuse_scaled(file: Weights) -> None:
    """Raise InputError for weights that are their file's numbers times a scale, where those numbers are asked for."""
    scales = [name for name in file if name.endswith(SCALES)]
    if scales:
        what = f"holds weights with scales ({shortened(scales[0])}), which are not written anew"
        raise InputError(Problem(file.where, what, "take the same model in bf16, fp16 or plain fp8"))


def reader(file: Weights, dtype: torch.dtype) -> Callable[[str], Tensor]:
    """How a tensor is read by its name: numbers in `dtype`, one tensor after the other, so that a file of another width
    is never in memory whole."""

    def read(name: str) -> Tensor:
        tensor = file.load(name)
        if not tensor.is_floating_point():
            return tensor
        stem = name.removesuffix(".weight")
        scale = next((f"{stem}{end}" for end in SCALES if f"{stem}{end}" in file and stem != name), "")
        if not scale:
            return tensor.to(dtype)
        return tensor.float().mul_(_by_row(file, scale, tensor)).to(dtype)

    return read


def _by_row(file: Weights, name: str, weight: Tensor) -> Tensor:
    """A weight's scale: one number, or one for each of its rows. Raises InputError for another."""
    scale = file.load(name).float()
    if scale.numel() == 1:
        return scale.reshape(())
    if scale.numel() == weight.shape[0]:
        return scale.reshape(-1, *(1,) * (weight.dim() - 1))
    what = f"{shortened(name)} has {scale.numel()} scales for {weight.shape[0]} rows"
    raise InputError(Problem(file.where, what, "take the same model in bf16, fp16 or fp8"))
