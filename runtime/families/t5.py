"""T5's encoder (Raffel et al. 2020), v1.1 XXL, as Flux.1 and Stable Diffusion 3 read captions with it.

Its vocabulary comes with a base's folder (`tokenizer_2/`, `tokenizer_3/`): single files have none.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from runtime.families import tokenizing
from runtime.families.protocol import Shapes

XXL: dict[str, Any] = {
    "vocab_size": 32128,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "feed_forward_proj": "gated-gelu",
    "layer_norm_epsilon": 1e-06,
    "dropout_rate": 0.1,
    "is_encoder_decoder": True,
    "tie_word_embeddings": False,
}
"""google/t5-v1_1-xxl's config.json, as far as an encoder depends on it."""

BLOCKS = "encoder.block"
"""Where its blocks are."""

TINY = {**XXL, "vocab_size": 128, "d_model": 128, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}

_W = TypeVar("_W")


def build(config: dict[str, Any]) -> T5EncoderModel:
    return T5EncoderModel(T5Config(**config))


def config(shapes: Shapes, prefix: str) -> dict[str, Any]:
    """The config of the encoder whose names begin with `prefix`; what names and shapes cannot say is XXL's."""
    first = f"{prefix}encoder.block.0.layer"
    vocabulary, width = shapes[f"{prefix}shared.weight"]
    buckets, heads = shapes[f"{first}.0.SelfAttention.relative_attention_bias.weight"]
    ends = ".layer.0.SelfAttention.q.weight"
    return {
        **XXL,
        "vocab_size": vocabulary,
        "d_model": width,
        "d_kv": shapes[f"{first}.0.SelfAttention.q.weight"][0] // heads,
        "d_ff": shapes[f"{first}.1.DenseReluDense.wi_0.weight"][0],
        "num_layers": sum(
            name.startswith(f"{prefix}encoder.block.") and name.endswith(ends) for name in shapes
        ),
        "num_heads": heads,
        "relative_attention_num_buckets": buckets,
    }


def weights(names: Iterable[str], load: Callable[[str], _W], prefix: str) -> dict[str, _W]:
    """The encoder's weights under transformers' names: its embedding is called `shared` and `embed_tokens` there."""
    found = {name.removeprefix(prefix): load(name) for name in names if name.startswith(prefix)}
    if "shared.weight" in found:
        found["encoder.embed_tokens.weight"] = found["shared.weight"]
    return found


# ------------------------------------------------------------------------------------------------------- vocabulary


def tokenizer(path: Path, folder: str, tokens: int) -> T5Tokenizer:
    """The vocabulary in `folder` of a base, at most `tokens` a text; of a single file it is looked for beside it.

    A text is always filled up to that: Flux.1 and SD 3 attend to the padding too. Raises InputError where none is.
    """
    place = tokenizing.folder_of(path, folder, "T5 vocabulary")
    found: T5Tokenizer = T5Tokenizer.from_pretrained(place, local_files_only=True)
    found.model_max_length = tokens
    return found


def tiny_vocabulary() -> T5Tokenizer:
    """A word piece for each printable character, for the random models of the tests."""
    letters = [*string.digits, *string.ascii_letters, *string.punctuation]
    specials = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    return T5Tokenizer(vocab=[*specials, ("▁", -2.0), *((letter, -3.0) for letter in letters)], extra_ids=0)


def tiny(folder: Path, model: str, vocabulary: str) -> None:
    """Write a random encoder of some kB and its vocabulary into these subfolders of a base."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made: Any = build(TINY)
        made.to(torch.bfloat16).save_pretrained(folder / model)
    tiny_vocabulary().save_pretrained(folder / vocabulary)
