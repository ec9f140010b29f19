"""The file for diffusers' `load_lora_weights`: PEFT's names, the strength inside the up matrix.

- Files of this kind carry no alpha, and readers take alpha = rank (diffusers `get_peft_kwargs`).
  diffusers 0.42 can also carry it as `lora_adapter_metadata`, which older ones ignore in silence; the
  product is right in all of them.
- Published names keep CLIP's `text_model` level, which transformers >= 5.6 dropped; diffusers takes it
  off by itself where the module lacks it, and ComfyUI maps only names with it.
"""

from __future__ import annotations

from torch import Tensor

from runtime import plan
from runtime.adapters import method
from runtime.export.weights import Weights, named
from runtime.families.protocol import Family

FILE = "pytorch_lora_weights.safetensors"
"""The name that diffusers looks for in a folder (`LORA_WEIGHT_NAME_SAFE`)."""

CLIP_LEVEL = "text_model."


def tensors(family: Family, weights: Weights, adapter: plan.Adapter, dtype: plan.Dtype) -> dict[str, Tensor]:
    """`COMPONENT.MODULE.lora_A.weight` and `….lora_B.weight` of every module."""
    of = method(adapter.method)
    found: dict[str, Tensor] = {}
    for component, modules in weights.items():
        for module, parts in modules.items():
            prefix = f"{component}.{published(family, component, module)}"
            strength = of.strength(parts, module, adapter)
            found |= {
                f"{prefix}.{end}": part for end, part in named(parts, adapter, of.PEFT, dtype, strength)
            }
    return found


def published(family: Family, component: str, module: str) -> str:
    """A module's path as files name it: with CLIP's level where kohya's name of it has that level."""
    has_level = f"_{CLIP_LEVEL[:-1]}_" in family.export_name(component, module)
    return CLIP_LEVEL + module if has_level and not module.startswith(CLIP_LEVEL) else module
