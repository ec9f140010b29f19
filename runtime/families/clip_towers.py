"""CLIP's published text towers (Radford et al. 2021; OpenCLIP, Ilharco et al. 2021), as transformers' configs."""

from __future__ import annotations

from typing import Any

from torch import nn

L: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "bos_token_id": 49406,
    "eos_token_id": 49407,
}
"""openai/clip-vit-large-patch14's."""

BIG_G: dict[str, Any] = {
    **L,
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "hidden_act": "gelu",
    "projection_dim": 1280,
}
"""laion/CLIP-ViT-bigG-14-laion2B-39B-b160k's."""


def read_at(tower: nn.Module, layers: int) -> nn.Module:
    """The text tower without the layers after the first `layers`: its last normalisation follows on these.

    That is clip skip in A1111's WebUI, kohya's trainer and diffusers: the hidden state before the layers that are
    skipped, with `final_layer_norm`.
    """
    text: Any = getattr(tower, "text_model", tower)  # no level of its own in transformers >= 5.6
    del text.encoder.layers[layers:]
    return tower
