"""`NAME-adapter.gguf` for llama.cpp: the numbers of PEFT's file under the names of the base's own GGUF.

- Written as llama.cpp's convert_lora_to_gguf.py writes it (0b03adaa; read, not run), with its package's name map.
- Rows of Llama's q and k are taken in pairs, as its rotary embedding wants them (LlamaModel.permute there): of an
  update B·A these are B's rows.
- Architectures are listed, not guessed: a name map says nothing about how a converter lays the numbers out.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runtime import plan
from runtime.adapters import method
from runtime.export import peft
from runtime.export.weights import Weights
from runtime.families import family

ROTATED = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
"""The layers whose rows are paired, and where the config says how many heads they have."""

ARCHITECTURES: dict[str, tuple[str, Mapping[str, str]]] = {
    "gemma": ("gemma", {}),
    "gemma2": ("gemma2", {}),
    "gemma3_text": ("gemma3", {}),
    "llama": ("llama", ROTATED),
    "mistral": ("llama", ROTATED),
    "phi3": ("phi3", {}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
}
"""transformers' model type -> llama.cpp's name for it, and which layers are paired (convert_hf_to_gguf.py)."""


def file_name(of: plan.Plan) -> str:
    return f"{of.outputs.name}-adapter.gguf"


def why_not(weights: Weights, of: plan.Plan) -> str:
    """Why the adapter has no GGUF; empty where it has one."""
    adapter, kind = of.program.adapter, _config(of).model_type
    if adapter.method != "lora" or adapter.dora:
        return f"llama.cpp knows no {'DoRA' if adapter.dora else adapter.method}"
    if adapter.modules_to_save:
        return "llama.cpp takes no modules that are trained whole"
    if kind not in ARCHITECTURES:
        return f"lorac knows llama.cpp's layout of {', '.join(ARCHITECTURES)}, not of {kind}"
    lost = [module for module, name in names(weights, of).items() if not name]
    return f"llama.cpp has no name for {', '.join(lost)}" if lost else ""


def content(weights: Weights, of: plan.Plan) -> bytes:
    """The file's bytes: `blk.N.attn_q.weight.lora_a` (r, in), `….lora_b` (out, r) and their like, in float16 where
    PEFT's file is, else float32."""
    from gguf import GGUFType, GGUFWriter, Keys, LlamaFileType

    saved = peft.tensors(weights, of)
    architecture, _ = ARCHITECTURES[_config(of).model_type]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adapter.gguf"
        writer = GGUFWriter(path, architecture)
        writer.add_type(GGUFType.ADAPTER)
        writer.add_name(of.outputs.name)
        is_half = of.outputs.dtype == "fp16"
        writer.add_file_type(LlamaFileType.MOSTLY_F16 if is_half else LlamaFileType.ALL_F32)
        writer.add_string(Keys.Adapter.TYPE, "lora")
        writer.add_float32(
            Keys.Adapter.LORA_ALPHA, method(of.program.adapter.method).in_peft(of.program.adapter).alpha
        )
        for module, name in names(weights, of).items():
            a, b = (saved[f"{peft.PREFIX}{module}.lora_{part}.weight"] for part in "AB")
            for part, value in (("a", a), ("b", paired(b, heads(module, _config(of))))):
                exact = value if is_half else value.float()  # numpy has no bfloat16
                writer.add_tensor(f"{name}.weight.lora_{part}", exact.contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()


def names(weights: Weights, of: plan.Plan) -> dict[str, str]:
    """Module path -> what llama.cpp calls it, `model.layers.0.self_attn.q_proj` -> `blk.0.attn_q`; "" for nothing."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    config = _config(of)
    ours, _ = ARCHITECTURES[config.model_type]
    (key,) = (key for key, name in MODEL_ARCH_NAMES.items() if name == ours)
    known = get_tensor_name_map(key, config.num_hidden_layers)
    return {module: known.get_name(module) or "" for modules in weights.values() for module in modules}


def heads(module: str, config: Any) -> int:
    """How many heads' rows are paired in this module; 0 where none are."""
    _, rotated = ARCHITECTURES[config.model_type]
    field = rotated.get(module.rpartition(".")[2])
    return int(getattr(config, field, None) or config.num_attention_heads) if field else 0


def paired(rows: Tensor, heads: int) -> Tensor:
    """Rows (out, …) with each head's two halves taken in turns: 0, d/2, 1, d/2 + 1, …; as they are for no heads."""
    if not heads:
        return rows
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return torch.swapaxes(halves, 1, 2).reshape(rows.shape)


def _config(of: plan.Plan) -> Any:
    base = of.program.base
    return family(base.family).config_of(base.architecture)
