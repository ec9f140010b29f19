"""The file for Stable Diffusion WebUI, Forge, ComfyUI and kohya's trainer: kohya's key names, with alpha.

- One constant alpha in each component: with mixed ones diffusers scales wrongly, in silence
  (facts/outputs.md rule 2).
- Alpha is saved in the file's dtype, as kohya does. Where that cannot hold it (11.3 in bfloat16), the
  nearest value is saved and the rest goes into the up matrix, so that the strength is the trained one.
  rsLoRA's √rank goes there too: readers divide alpha by the rank, whatever the metadata say.
"""

from __future__ import annotations

import torch
from torch import Tensor

from runtime import plan
from runtime.dtypes import DTYPES
from runtime.export.weights import Weights, strength
from runtime.families.protocol import Family


def tensors(family: Family, weights: Weights, adapter: plan.Adapter, dtype: plan.Dtype) -> dict[str, Tensor]:
    """`X.lora_down.weight`, `X.lora_up.weight` and `X.alpha` of every module. X comes from the family."""
    saved = DTYPES[dtype]
    alpha = torch.tensor(adapter.alpha, dtype=saved)
    rest = strength(adapter) * adapter.rank / alpha.item()
    found: dict[str, Tensor] = {}
    for component, modules in weights.items():
        for module, (a, b) in modules.items():
            prefix = family.export_name(component, module)
            if f"{prefix}.alpha" in found:
                raise ValueError(f"two modules are exported as {prefix}")
            found[f"{prefix}.lora_down.weight"] = a.detach().cpu().to(saved)
            found[f"{prefix}.lora_up.weight"] = (b.detach().cpu().float() * rest).to(saved)
            found[f"{prefix}.alpha"] = alpha.clone()
    return found
