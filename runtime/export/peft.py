"""The folder of a language model's adapter in PEFT's names.

vLLM refuses `modules_to_save` and `use_dora`, and whatever is no LoRA; such an adapter is for PEFT alone, which the
manifest says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise

import torch
from peft import PEFT_TYPE_TO_CONFIG_MAPPING
from torch import Tensor

from runtime import plan
from runtime.adapters import method
from runtime.dtypes import DTYPES
from runtime.export.weights import Weights, low_rank, named
from runtime.safeio import strict_json

FILE = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
PREFIX = "base_model.model."
TYING = "ensure_weight_tying"
"""Of LoRA's configuration alone (PEFT 0.21.2). Of other methods, two weights of the same values are loaded by name."""


def tensors(weights: Weights, of: plan.Plan) -> dict[str, Tensor]:
    """`base_model.model.MODULE.PART` for each of the method's parts, such as `….lora_A.weight`.

    `base_model.model.MODULE.weight` of what is trained whole, also where the base ties two such: PEFT looks for each
    by its own name.
    """
    adapter, by = of.program.adapter, method(of.program.adapter.method)
    found: dict[str, Tensor] = {}
    for modules in low_rank(weights, adapter).values():
        for module, parts in modules.items():
            held = named(by.for_peft(parts, module, adapter), adapter, by.PEFT, of.outputs.dtype)
            found |= {f"{PREFIX}{module}.{end}": part for end, part in held}
    for component, paths in adapter.modules_to_save.items():
        for module in paths:
            for part, value in weights[component][module].items():
                found[f"{PREFIX}{module}.{part}"] = value.detach().cpu().to(DTYPES[of.outputs.dtype])
    return found


def config(weights: Weights, of: plan.Plan) -> str:
    """adapter_config.json's text."""
    adapter = of.program.adapter
    names = [module for modules in low_rank(weights, adapter).values() for module in modules]
    own = method(adapter.method).peft_config(names, adapter)
    if hasattr(PEFT_TYPE_TO_CONFIG_MAPPING[own["peft_type"]], TYING):
        own[TYING] = _are_tied(weights, adapter)
    return strict_json.canonical(
        {
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": of.outputs.base_name,
            "inference_mode": True,
            "modules_to_save": _last(adapter.modules_to_save) or None,
            **own,
        }
    )


def _are_tied(weights: Weights, adapter: plan.Adapter) -> bool:
    """Whether what is trained whole is one weight under two names: PEFT ties them again where it is told to."""
    return any(
        weights[component][first]["weight"].shape == weights[component][second]["weight"].shape
        and torch.equal(weights[component][first]["weight"], weights[component][second]["weight"])
        for component, paths in adapter.modules_to_save.items()
        for first, second in pairwise(paths)
    )


def _last(paths: Mapping[str, Iterable[str]]) -> list[str]:
    """Modules by the last part of their paths, as PEFT is told of them."""
    return sorted({path.rpartition(".")[2] for component in paths.values() for path in component})
