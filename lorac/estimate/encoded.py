"""What is encoded once and kept: how many bytes that is on disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from operator import attrgetter

import torch
from torch import Tensor

from lorac.estimate.bases import encoders_of, encodes_text, frozen
from runtime import plan
from runtime.data import captions
from runtime.families import family

GRID = 64
"""Side in pixels of a picture that stands for any where only its caption counts."""

Size = tuple[int, int]

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
    counts, counts_of_masks = _pictures(data), _masks(data)
    if not counts:  # planned without the data at hand
        side, views = data.resolution, data.expected * plan.picture_variants(data)
        counts[side, side] = views * (2 if data.flip else 1)
        counts_of_masks[side, side] = views if data.mask != "none" else 0
    total = 0
    with torch.device("meta"), torch.no_grad():
        for size, count in counts.items():
            latents = of.encode_picture(modules, torch.empty(1, *plan.pixels(plan.shape(data, size))))
            total += count * tensor_bytes(latents.values())
            total += counts_of_masks[size] * MASK_BYTES * latents["latent_mean"][0, 0].numel()
        if encodes_text(of, program):
            example = of.example(program.base.architecture, 1, (GRID, GRID), True)
            assumed = data.expected * data.caption_variants + bool(data.caption_dropout)
            texts = len(captions.wordings(data)) if data.items else assumed
            total += texts * tensor_bytes(of.encode_text(modules, example).values())
    return total


def _pictures(data: plan.Images) -> Counter[Size]:
    """Pictures that are encoded, by their bucket: every view of those that are trained on."""
    views = plan.picture_variants(data) * (2 if data.flip else 1)
    trained = {(item.sha256, item.bucket) for item in data.items}
    held = {(item.sha256, item.bucket) for item in data.held_items}
    return Counter([bucket for _, bucket in trained] * views + [bucket for _, bucket in held])


def _masks(data: plan.Images) -> Counter[Size]:
    """Masks that are kept, by their bucket. Where there is none, one stands for every view of every picture."""
    if data.mask == "none":
        return Counter()
    file = attrgetter("mask_sha256" if data.mask == "files" else "sha256")
    if data.augment is None or not data.augment.varies_crops:
        return Counter(bucket for _, bucket in {(file(item), item.bucket) for item in plan.every_item(data)})
    views = plan.picture_variants(data)
    trained = {(item.sha256, item.bucket) for item in data.items if file(item)}
    held = {(file(item), item.bucket) for item in data.held_items if file(item)}
    none = {item.bucket for item in plan.every_item(data) if not file(item)}
    return Counter([bucket for _, bucket in trained] * views + [bucket for _, bucket in held] + [*none])


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
