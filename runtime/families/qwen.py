"""Qwen's language models, as Z-Image (Qwen3) and Qwen-Image (Qwen2.5-VL) read captions with them.

A caption stands in a template, has as many tokens as it has, and is filled up to one length so that a batch stacks; a
mask says which tokens are its own. The vocabulary comes with a base's folder (`tokenizer/`): single files have none.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from runtime.families import tokenizing
from runtime.families.protocol import Batch

FOLDER = "tokenizer"

TINY: dict[str, Any] = {
    "vocab_size": 320,  # as `causal_lm.byte_tokenizer` has tokens, and some
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def tokenizer(path: Path) -> Any:
    """The vocabulary of a base's folder; of a single file it is looked for beside it. Raises InputError."""
    place = tokenizing.folder_of(path, FOLDER, "vocabulary")
    return AutoTokenizer.from_pretrained(place, local_files_only=True)


def tokenize(vocabulary: Any, texts: Sequence[str], length: int) -> Batch:
    """`tokens` (N, length), cut or filled up at the end, and `mask`, true where a token is the text's own."""
    found = vocabulary(
        list(texts),
        padding="max_length",
        padding_side="right",
        max_length=length,
        truncation=True,
        return_tensors="pt",
    )
    return {"tokens": found.input_ids, "mask": found.attention_mask.bool()}


def causal(tokens: Tensor) -> Tensor:
    """The attention mask of tokens (N, L) that look only back, (1, 1, L, L).

    What fills a text up comes after it, so its own tokens never see that. Given whole, the mask is taken as it is:
    transformers would ask the values of a smaller one, which a trace without values has not.
    """
    length = tokens.shape[1]
    return torch.ones(length, length, dtype=torch.bool, device=tokens.device).tril()[None, None]
