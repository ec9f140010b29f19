"""A CLIP text tower of transformers' under OpenCLIP's names."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

NAMES = (
    (r"^encoder\.layers\.", "transformer.resblocks."),
    (r"^embeddings\.token_embedding\.weight", "token_embedding.weight"),
    (r"^embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"^final_layer_norm\.", "ln_final."),
    (r"\.layer_norm(\d)\.", r".ln_\1."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    (r"\.self_attn\.", ".attn."),
)


def original(tower: Mapping[str, Tensor], stem: str) -> dict[str, Tensor]:
    """Its tensors as open_clip's `TextTransformer` keeps them: q, k and v in one, the projection turned."""
    named = {name.removeprefix("text_model."): tensor for name, tensor in tower.items()}
    projection = named.pop("text_projection.weight", None)
    made = {f"{stem}logit_scale": torch.tensor(4.6)}
    if projection is not None:
        made[f"{stem}text_projection"] = projection.T.contiguous()
    for name, tensor in named.items():
        if re.search(r"\.[kv]_proj\.", name):
            continue
        if ".q_proj." in name:
            tensor = torch.cat([named[name.replace(".q_proj.", f".{part}_proj.")] for part in "qkv"])
        for ours, theirs in NAMES:
            name = re.sub(ours, theirs, name)
        made[stem + re.sub(r"\.attn\.q_proj\.", ".attn.in_proj_", name)] = tensor
    return made
