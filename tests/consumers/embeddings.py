"""The rules by which programs put a word's vectors into a prompt, written anew. No line is copied.

WebUI 1.10: modules/textual_inversion/textual_inversion.py (`create_embedding_from_data`,
`find_embedding_at_position`), modules/sd_hijack_clip.py. Forge (42ef31f1) has the same in
backend/text_processing/textual_inversion.py. ComfyUI 0.3: comfy/sd1_clip.py (`load_embed`, `tokenize_with_weights`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.consumers.loaded import Refused, read

COMFYUI_KEYS = {"sd1": {"text_encoder": "clip_l"}, "sd2": {"text_encoder": "clip_h"}}
XL_KEYS = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
"""Text encoder -> what ComfyUI, and WebUI of SDXL's alone, call its vectors."""

Embed = Callable[[Tensor], Tensor]
"""Token ids (T,) -> the base's token embeddings (T, width)."""


def webui(path: Path, widths: Mapping[str, int]) -> dict[str, Tensor]:
    """Text encoder -> the vectors that WebUI takes of a file; `widths` are the base's own token embeddings'."""
    tensors = read(path)
    if {"clip_l", "clip_g"} <= tensors.keys():
        found = {encoder: tensors[key].float() for encoder, key in XL_KEYS.items()}
    elif len(tensors) == 1:
        (only,) = tensors.values()
        found = {"text_encoder": torch.atleast_2d(only).float()}
    else:
        raise Refused("embedding file has multiple terms in it")
    if sum(vectors.shape[-1] for vectors in found.values()) != sum(widths.values()):
        raise Refused("it is skipped: another width")
    return found


def webui_prompt(prompt: str, name: str, vectors: Tensor, tokenizer: Any, embed: Embed) -> Tensor:
    """What the text encoder is given for a prompt (tokens, width), begin, end and padding left out: wherever the name's
    own tokens stand, the vectors stand instead."""
    mine, ids = (tokenizer(text, add_special_tokens=False).input_ids for text in (name, prompt))
    rows, at = [], 0
    while at < len(ids):
        is_named = ids[at : at + len(mine)] == mine
        rows.append(vectors if is_named else embed(torch.tensor(ids[at : at + 1])))
        at += len(mine) if is_named else 1
    return torch.cat(rows)


def comfyui(folder: Path, name: str, family: str, encoder: str) -> Tensor:
    """The vectors that ComfyUI takes of the file of that name in its folder."""
    tensors = read(folder / f"{name}.safetensors")
    key = COMFYUI_KEYS.get(family, XL_KEYS)[encoder]
    return tensors[key] if key in tensors else next(iter(tensors.values()))


def comfyui_prompt(
    prompt: str, folder: Path, family: str, encoder: str, tokenizer: Any, embed: Embed
) -> Tensor:
    """The same of a prompt that calls words as `embedding:NAME`; a name ends at a space, or before commas."""
    first, *others = re.split(" embedding:|\nembedding:", f" {prompt}")
    rows = [embed(torch.tensor(tokenizer(first, add_special_tokens=False).input_ids, dtype=torch.long))]
    for other in others:
        called, _, rest = other.partition(" ")
        name = called.rstrip(",")
        rows.append(comfyui(folder, name, family, encoder))
        left = tokenizer(f"{called[len(name) :]} {rest}", add_special_tokens=False).input_ids
        rows.append(embed(torch.tensor(left, dtype=torch.long)))
    return torch.cat(rows)
