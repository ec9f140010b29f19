"""The file for Stable Diffusion WebUI, Forge, ComfyUI and kohya's trainer: kohya's and LyCORIS' key names, with alpha.

- One constant alpha in each component: with mixed ones diffusers scales wrongly, in silence
  (facts/outputs.md rule 2). A module of another rank or alpha has the rest of its strength in its own parts.
- Alpha is saved in the file's dtype, as kohya does. Where that cannot hold it (11.3 in bfloat16), the
  nearest value is saved and the rest goes into the up matrix, so that the strength is the trained one.
  rsLoRA's √rank goes there too: readers divide alpha by the rank, whatever the metadata say.
"""

from __future__ import annotations

import torch
from torch import Tensor

from runtime import plan
from runtime.adapters import method
from runtime.dtypes import DTYPES
from runtime.export.weights import Weights, named
from runtime.families.protocol import Family


def tensors(family: Family, weights: Weights, adapter: plan.Adapter, dtype: plan.Dtype) -> dict[str, Tensor]:
    """`X.PART` for each of the method's parts, such as `X.lora_down.weight`, and `X.alpha`. X comes from the family."""
    of = method(adapter.method)
    alpha = torch.tensor(adapter.alpha, dtype=DTYPES[dtype])
    found: dict[str, Tensor] = {}
    for component, modules in weights.items():
        for module, parts in modules.items():
            prefix = family.export_name(component, module)
            if f"{prefix}.alpha" in found:
                raise ValueError(f"two modules are exported as {prefix}")
            ratio = of.strength(parts, module, adapter) / of.read_strength(parts, alpha.item())
            found |= {f"{prefix}.{end}": part for end, part in named(parts, adapter, of.WEBUI, dtype, ratio)}
            found[f"{prefix}.alpha"] = alpha.clone()
    return found
