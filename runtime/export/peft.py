"""The folder for PEFT, vLLM and llama.cpp's converter: a language model's adapter in PEFT's names.

- vLLM and llama.cpp read only alpha / r for every module, and Ollama wants alpha as a JSON integer (facts/outputs.md,
  part 4): rsLoRA and an alpha that is no integer go into the B matrices, and alpha is written as r then.
- vLLM refuses `modules_to_save` and `use_dora`; such an adapter is for PEFT alone, which the manifest says.
"""

from __future__ import annotations

from torch import Tensor

from runtime import plan
from runtime.dtypes import DTYPES
from runtime.export.weights import Weights, strength
from runtime.safeio import strict_json

FILE = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
PREFIX = "base_model.model."


def tensors(weights: Weights, of: plan.Plan) -> dict[str, Tensor]:
    """`base_model.model.MODULE.lora_A.weight` (r, in) and `….lora_B.weight` (out, r) of every module.

    With DoRA `….lora_magnitude_vector` (out,), too.
    """
    adapter, saved = of.program.adapter, DTYPES[of.outputs.dtype]
    rest = strength(adapter) / (alpha(adapter) / adapter.rank)
    found: dict[str, Tensor] = {}
    for modules in weights.values():
        for module, (a, b, *magnitudes) in modules.items():
            found[f"{PREFIX}{module}.lora_A.weight"] = a.detach().cpu().to(saved)
            found[f"{PREFIX}{module}.lora_B.weight"] = (b.detach().cpu().float() * rest).to(saved)
            for magnitude in magnitudes:  # in float32: what they learned is small against what they are
                found[f"{PREFIX}{module}.lora_magnitude_vector"] = magnitude.detach().cpu()
    return found


def alpha(adapter: plan.Adapter) -> int:
    """The alpha that is written: the trained one where readers take it as it is meant, else the rank."""
    is_plain = not adapter.rslora and float(adapter.alpha).is_integer()
    return int(adapter.alpha) if is_plain else adapter.rank


def config(weights: Weights, of: plan.Plan) -> str:
    """adapter_config.json's text."""
    adapter = of.program.adapter
    names = sorted({module.rpartition(".")[2] for modules in weights.values() for module in modules})
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
            "modules_to_save": None,
            "rank_pattern": {},
            "alpha_pattern": {},
        }
    )
