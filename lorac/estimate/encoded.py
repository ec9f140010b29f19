"""What is encoded once and kept: how many bytes that is on disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor

from lorac.estimate.bases import encoders_of, encodes_text, frozen
from runtime import plan
from runtime.data import captions
from runtime.families import family

GRID = 64
"""Side in pixels of a picture that stands for any where only its caption counts."""

TOKEN_BYTES = 5
"""A token in `runtime.text.corpus`: its id and whether it is trained."""


MASK_BYTES = 4
"""A place of a mask in `runtime.data.cache`: a float32."""


def encoded_bytes(program: plan.Program) -> int:
    """What the cache of latents and text embeddings, or of tokens, takes on disk, from the shapes alone; no headers."""
    of, data = family(program.base.family), program.data
    if isinstance(data, plan.Texts):
        return TOKEN_BYTES * data.expected * data.length
    modules = encoders_of(program, frozen(program))
    counts = Counter(item.bucket for item in plan.every_item(data))  # a lock has no file twice in one bucket
    counts_of_masks = Counter(counts)
    if data.flip:
        counts.update(item.bucket for item in data.items)
    if data.mask == "files":
        masked = {(item.mask_sha256, item.bucket) for item in plan.every_item(data)}
        counts_of_masks = Counter(bucket for _, bucket in masked)
    if not counts:  # planned without the data at hand
        counts[data.resolution, data.resolution] = data.expected * (2 if data.flip else 1)
    total = 0
    with torch.device("meta"), torch.no_grad():
        for size, count in counts.items():
            latents = of.encode_picture(modules, torch.empty(1, *plan.pixels(plan.shape(data, size))))
            total += count * tensor_bytes(latents.values())
            masks = counts_of_masks[size] or count
            total += (masks if data.mask != "none" else 0) * MASK_BYTES * latents["latent_mean"][0, 0].numel()
        if encodes_text(of, program):
            example = of.example(program.base.architecture, 1, (GRID, GRID), True)
            assumed = data.expected * data.caption_variants + bool(data.caption_dropout)
            texts = len(captions.wordings(data)) if data.items else assumed
            total += texts * tensor_bytes(of.encode_text(modules, example).values())
    return total


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
