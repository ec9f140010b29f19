"""A base in a GGUF file: its config, weights and tokenizer, from one parsing of the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf as llama_cpp
import pytest
import torch
from transformers import AutoModelForCausalLM

from runtime.export.gguf import paired
from runtime.families import causal_lm, gguf

WORDS = 259
LAYERS, HEADS, KEYS = (
    causal_lm.TINY[f"num_{name}"] for name in ("hidden_layers", "attention_heads", "key_value_heads")
)


@pytest.fixture(scope="module")
def model(tiny_lm: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_lm, dtype=torch.float32)


@pytest.fixture(scope="module")
def file(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama as llama.cpp's converter would write it."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = llama_cpp.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(LAYERS)
    writer.add_context_length(model.config.max_position_embeddings)
    writer.add_embedding_length(model.config.hidden_size)
    writer.add_feed_forward_length(model.config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEYS)
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    writer.add_vocab_size(model.config.vocab_size)
    tokenizer = causal_lm.byte_tokenizer()
    words = tokenizer.convert_ids_to_tokens(range(WORDS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*words, "ĠĠ"])
    writer.add_token_types([1] * 256 + [3] * 3 + [1])
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(257)
    names = llama_cpp.get_tensor_name_map(llama_cpp.MODEL_ARCH.LLAMA, LAYERS)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue  # tied
        heads = HEADS if "q_proj" in name else KEYS if "k_proj" in name else 0
        writer.add_tensor(names.get_name(name, (".weight",)), paired(tensor, heads).contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.family("load single file", row="causal_lm")
def test_config_weights_and_tokenizer_come_from_one_parsing(
    file: Path, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []
    own = llama_cpp.GGUFReader

    def counted(path: str) -> Any:
        parsed.append(path)
        return own(path)

    monkeypatch.setattr(llama_cpp, "GGUFReader", counted)
    config = causal_lm.config_of({"model": gguf.config(file)})
    loaded = gguf.load(file, config, torch.float32)
    tokenizer = gguf.tokenizer(file)

    assert parsed == [str(file)]
    assert tokenizer("Say")["input_ids"] == causal_lm.byte_tokenizer()("Say")["input_ids"]
    tokens = torch.arange(20).unsqueeze(0)
    with torch.no_grad():
        assert torch.allclose(loaded.eval()(tokens).logits, model.eval()(tokens).logits, atol=1e-5)
    assert llama_cpp.GGUFReader is counted
