"""SmolLM2 as a Transformers folder, for trainers that take no GGUF: `python -m tests.bench.language.base GGUF TO`.

- transformers 5.23 marks what it read from a GGUF as quantised though it is dense, and its Trainer then refuses it; so
  the weights go into a model that was made without the mark. They are the same to the bit.
- It has no entry for the file's pre-tokenizer, `smollm` (llama.cpp: split off each digit, then as GPT-2), and does not
  split off digits, which changes white space before a number.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from runtime.safeio.atomic import making_folder


def convert(gguf: Path, to: Path) -> None:
    """Write the folder: config, float32 safetensors, tokenizer with its template."""
    parts = load_gguf_checkpoint(str(gguf), return_tensors=False)
    config = AutoConfig.for_model(**{k: v for k, v in parts["config"].items() if not k.startswith("_")})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    tensors = load_gguf_checkpoint(
        str(gguf), return_tensors=True, model_to_load=model, torch_dtype=torch.float32
    )["tensors"]
    left = model.load_state_dict(tensors, strict=False)
    assert left.missing_keys == ["lm_head.weight"] and not left.unexpected_keys, left  # tied to the embedding
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    assert parts["tokenizer"]["pre_tokenizer_type"] == "smollm", parts["tokenizer"]["pre_tokenizer_type"]
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
        ]
    )
    to.parent.mkdir(parents=True, exist_ok=True)
    with making_folder(to) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
