"""Qwen2.5-VL's language model (Bai et al. 2025, arXiv:2502.13923) as Qwen-Image reads captions with it, in a file.

A caption takes neither `visual`, which sees pictures, nor `lm_head`, which writes words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runtime.families import bundles
from runtime.families.parts import Part, within
from runtime.families.protocol import Shapes

PREFIX = "text_encoders.qwen25_7b.transformer."
LEVELS = ("model.language_model.", "model.")
"""Where the language model is: in the names of transformers since 4.52, and before."""

PART = Part("Qwen2.5-VL", (PREFIX,), tuple(f"{level}layers.0.self_attn.q_proj.bias" for level in LEVELS))

HEAD_DIM = 128
"""Of Qwen2.5, whose tensors do not say it."""

# text_config in text_encoder/config.json of Qwen/Qwen-Image.
PUBLISHED: dict[str, Any] = {
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 128000,
    "rms_norm_eps": 1e-06,
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 1000000.0,
        "mrope_section": [16, 24, 24],
    },
}


def config(shapes: Shapes) -> dict[str, Any]:
    """The language model's config, of a file with everything."""
    level = PREFIX + within(
        (name.removeprefix(PREFIX) for name in shapes if name.startswith(PREFIX)), *LEVELS
    )
    vocabulary, width = shapes[f"{level}embed_tokens.weight"]
    first = f"{level}layers.0."
    return {
        **PUBLISHED,
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shapes[f"{first}mlp.gate_proj.weight"][0],
        "num_hidden_layers": bundles.count(shapes, f"{level}layers."),
        "num_attention_heads": shapes[f"{first}self_attn.q_proj.weight"][0] // HEAD_DIM,
        "num_key_value_heads": shapes[f"{first}self_attn.k_proj.weight"][0] // HEAD_DIM,
    }


def names(given: Sequence[str], prefix: str) -> dict[str, str]:
    """The language model's name in transformers -> in the file, of what begins with `prefix` there."""
    mine = {name.removeprefix(prefix): name for name in given if name.startswith(prefix)}
    level = within(mine, *LEVELS)
    return {one.removeprefix(level): name for one, name in mine.items() if one.startswith(level)}
