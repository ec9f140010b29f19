"""The folder for PEFT, vLLM and llama.cpp's converter: a language model's adapter in PEFT's names.

- vLLM and llama.cpp read only alpha / r for every module, and Ollama wants alpha as a JSON integer (facts/outputs.md,
  part 4): rsLoRA and an alpha that is no integer go into the B matrices, and alpha is written as r then.
- vLLM refuses `modules_to_save` and `use_dora`; such an adapter is for PEFT alone, which the manifest says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise

import torch
from torch import Tensor

from runtime import plan
from runtime.dtypes import DTYPES
from runtime.export.weights import Weights, low_rank, strength
from runtime.safeio import strict_json

FILE = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
PREFIX = "base_model.model."


def tensors(weights: Weights, of: plan.Plan) -> dict[str, Tensor]:
    """`base_model.model.MODULE.lora_A.weight` (r, in) and `….lora_B.weight` (out, r) of every module.

    With DoRA `….lora_magnitude_vector` (out,), too. `base_model.model.MODULE.weight` of what is trained whole, also
    where the base ties two such: PEFT looks for each by its own name.
    """
    adapter, saved = of.program.adapter, DTYPES[of.outputs.dtype]
    rest = strength(adapter) / (alpha(adapter) / adapter.rank)
    found: dict[str, Tensor] = {}
    for modules in low_rank(weights, adapter).values():
        for module, (a, b, *magnitudes) in modules.items():
            found[f"{PREFIX}{module}.lora_A.weight"] = a.detach().cpu().to(saved)
            found[f"{PREFIX}{module}.lora_B.weight"] = (b.detach().cpu().float() * rest).to(saved)
            for magnitude in magnitudes:  # in float32: what they learned is small against what they are
                found[f"{PREFIX}{module}.lora_magnitude_vector"] = magnitude.detach().cpu()
    for component, paths in adapter.modules_to_save.items():
        for module in paths:
            for part, value in zip(("weight", "bias"), weights[component][module], strict=False):
                found[f"{PREFIX}{module}.{part}"] = value.detach().cpu().to(saved)
    return found


def alpha(adapter: plan.Adapter) -> int:
    """The alpha that is written: the trained one where readers take it as it is meant, else the rank."""
    is_plain = not adapter.rslora and float(adapter.alpha).is_integer()
    return int(adapter.alpha) if is_plain else adapter.rank


def config(weights: Weights, of: plan.Plan) -> str:
    """adapter_config.json's text."""
    adapter = of.program.adapter
    names = _last(low_rank(weights, adapter))
    return strict_json.canonical(
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": of.outputs.base_name,
            "r": adapter.rank,
            "lora_alpha": alpha(adapter),
            "lora_dropout": adapter.dropout,
            "target_modules": names,
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "init_lora_weights": True,
            "use_rslora": False,
            "use_dora": adapter.dora,
            "modules_to_save": _last(adapter.modules_to_save) or None,
            "ensure_weight_tying": _are_tied(weights, adapter),
            "rank_pattern": {},
            "alpha_pattern": {},
        }
    )


def _are_tied(weights: Weights, adapter: plan.Adapter) -> bool:
    """Whether what is trained whole is one weight under two names: PEFT ties them again where it is told to."""
    return any(
        weights[component][first][0].shape == weights[component][second][0].shape
        and torch.equal(weights[component][first][0], weights[component][second][0])
        for component, paths in adapter.modules_to_save.items()
        for first, second in pairwise(paths)
    )


def _last(paths: Mapping[str, Iterable[str]]) -> list[str]:
    """Modules by the last part of their paths, as PEFT is told of them."""
    return sorted({path.rpartition(".")[2] for component in paths.values() for path in component})
