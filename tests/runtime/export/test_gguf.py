"""llama.cpp's adapter, read back by its own package and held against the base's GGUF and transformers' reader."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import attrs
import gguf as llama_cpp
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig
from transformers.modeling_gguf_pytorch_utils import LlamaTensorProcessor, get_gguf_hf_weights_map

from runtime import plan
from runtime.export import gguf
from runtime.families import causal_lm
from tests import texts
from tests.conftest import ROOT
from tests.lorac.plans import OUTPUTS, PROGRAM, a_plan

SMOLLM2 = ROOT / ".cache" / "smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_CONFIG = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
}
"""Its own numbers, by hand: to read them from the file takes seconds."""

RANK = 4
SIZES = {**causal_lm.TINY, "head_dim": 8}


def tiny(kind: str) -> dict[str, Any]:
    """The config of a tiny model, as JSON has it."""
    found: dict[str, Any] = json.loads(AutoConfig.for_model(kind, **SIZES).to_json_string())
    return found


def planned(config: dict[str, Any], **adapter: Any) -> plan.Plan:
    """A plan over an architecture's linear layers, with alpha 10."""
    architecture = {"model": config}
    base = attrs.evolve(PROGRAM.base, family="causal_lm", layout="transformers", architecture=architecture)
    changed = attrs.evolve(
        PROGRAM.adapter,
        rank=RANK,
        alpha=10.0,
        targets=causal_lm.targets(architecture, "all-linear", False),
        **adapter,
    )
    return a_plan(
        program=attrs.evolve(PROGRAM, base=base, adapter=changed),
        outputs=attrs.evolve(OUTPUTS, name="cats", dtype="fp32", gguf=True),
    )


def factors(of: plan.Plan) -> dict[str, dict[str, dict[str, torch.Tensor]]]:
    """Random A and B for all that the plan adapts."""
    with torch.device("meta"):
        model = causal_lm.build(of.program.base.architecture, "model")
    generator = torch.Generator().manual_seed(1)
    return {
        "model": {
            name: {
                part: torch.randn(shape, generator=generator)
                for part, shape in (("A", (RANK, layer.in_features)), ("B", (layer.out_features, RANK)))
            }
            for name, layer in model.named_modules()
            if re.fullmatch(of.program.adapter.targets["model"], name)
        }
    }


def written(of: plan.Plan, folder: Path) -> Any:
    """The file as llama.cpp's package reads it, with the weights that it was written from."""
    weights = factors(of)
    path = folder / gguf.file_name(of)
    path.write_bytes(gguf.content(weights, of))
    return llama_cpp.GGUFReader(path), weights


def said(reader: Any, key: str) -> Any:
    return reader.get_field(key).contents()


def test_its_names_and_shapes_are_those_of_the_base_s_own_gguf_and_its_update_too(tmp_path: Path) -> None:
    of = planned(SMOLLM2_CONFIG)
    reader, weights = written(of, tmp_path)
    base = {tensor.name: tensor for tensor in llama_cpp.GGUFReader(SMOLLM2).tensors}
    found = {tensor.name: tensor for tensor in reader.tensors}

    assert said(reader, "general.type") == "adapter"
    assert said(reader, "adapter.type") == "lora"
    assert said(reader, "adapter.lora.alpha") == 10.0
    assert said(reader, "general.architecture") == "llama"
    assert len(found) == 2 * 7 * 30
    for name in {name.rpartition(".")[0] for name in found}:
        inner, outer = base[name].shape
        assert list(found[f"{name}.lora_a"].shape) == [inner, RANK]
        assert list(found[f"{name}.lora_b"].shape) == [RANK, outer]

    reverse = LlamaTensorProcessor({"num_attention_heads": 9, "num_key_value_heads": 3})
    for ours, theirs in (
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("mlp.down_proj", "ffn_down"),
    ):
        a, b = weights["model"][f"model.layers.3.{ours}"].values()
        name = f"blk.3.{theirs}.weight"
        update = found[f"{name}.lora_b"].data @ found[f"{name}.lora_a"].data
        as_read = torch.tensor(reverse.process(update, name).weights)
        torch.testing.assert_close(as_read, b @ a, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", gguf.ARCHITECTURES)
def test_every_listed_architecture_has_the_names_that_transformers_reads(kind: str, tmp_path: Path) -> None:
    of = planned(tiny(kind))
    reader, weights = written(of, tmp_path)
    with torch.device("meta"):
        model = causal_lm.build(of.program.base.architecture, "model")
    known = get_gguf_hf_weights_map(model, LlamaTensorProcessor(), gguf.ARCHITECTURES[kind][0])
    ours = {f"{name}.weight": f"{module}.weight" for module, name in gguf.names(weights, of).items()}

    assert ours and ours.items() <= known.items()
    assert {tensor.name for tensor in reader.tensors} == {f"{n}.lora_{p}" for n in ours for p in "ab"}


def test_the_same_plan_gives_the_same_bytes() -> None:
    of = planned(tiny("llama"))
    assert gguf.content(factors(of), of) == gguf.content(factors(of), of)


@pytest.mark.parametrize(
    ("kind", "adapter", "why"),
    [
        ("cohere", {}, "lorac knows llama.cpp's layout of gemma, "),
        ("llama", {"dora": True}, "llama.cpp knows no DoRA"),
        (
            "llama",
            {"modules_to_save": {"model": ("lm_head",)}},
            "llama.cpp takes no modules that are trained whole",
        ),
    ],
)
def test_what_cannot_be_written_says_why(kind: str, adapter: dict[str, Any], why: str) -> None:
    of = planned(tiny(kind), **adapter)
    assert gguf.why_not(factors(of), of).startswith(why)


def test_a_module_that_llama_cpp_has_no_name_for_is_named() -> None:
    of = planned(tiny("llama"))
    strange = {"model": {"model.layers.0.mlp.other": factors(of)["model"]["model.layers.0.mlp.up_proj"]}}
    assert gguf.why_not(strange, of) == "llama.cpp has no name for model.layers.0.mlp.other"


def test_a_run_writes_it_on_request_with_the_numbers_of_peft_s_file(
    tiny_lm: Path, tiny_text: Path, tmp_path: Path, cache: Path
) -> None:
    of = texts.planned(tiny_lm, tiny_text, tmp_path, gguf=True, dtype="fp16", alpha=5.5)
    made = texts.carry_out(of, texts.where(of, tmp_path, cache))
    reader = llama_cpp.GGUFReader(made.parent / "tiny-adapter.gguf")
    found = {tensor.name: torch.tensor(tensor.data) for tensor in reader.tensors}
    peft = load_file(made)
    manifest = json.loads((made.parent / "tiny.lorac.json").read_text())

    v = "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"
    assert torch.equal(found["blk.1.attn_v.weight.lora_b"], peft[v])
    assert (
        said(reader, "adapter.lora.alpha")
        == json.loads((made.parent / "adapter_config.json").read_text())["lora_alpha"]
    )
    assert {file["name"]: file["role"] for file in manifest["files"]}["tiny-adapter.gguf"] == "gguf"
    (verdict,) = [one for one in manifest["consumers"] if one["consumer"] == "llama.cpp"]
    assert verdict["file"] == "tiny-adapter.gguf"
    assert verdict["call"].endswith("tiny-adapter.gguf")


def test_where_it_cannot_be_written_the_manifest_says_why(
    tiny_lm: Path, tiny_text: Path, tmp_path: Path, cache: Path
) -> None:
    of = texts.planned(tiny_lm, tiny_text, tmp_path, gguf=True, dora=True)
    made = texts.carry_out(of, texts.where(of, tmp_path, cache))
    notes = json.loads((made.parent / "tiny.lorac.json").read_text())["run"]["notes"]
    assert notes == ["there is no tiny-adapter.gguf: llama.cpp knows no DoRA"]
    assert not (made.parent / "tiny-adapter.gguf").exists()
