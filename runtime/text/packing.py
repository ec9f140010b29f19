"""Samples of many lengths as sequences of few: packed full and apart, or padded with others of like length.

- Packing is best fit decreasing (Johnson 1974) inside a window of the epoch's order, so that the order stays nearly
  random; which samples share a sequence is a function of their lengths, the order and the length alone.
- Packed samples are kept apart by positions that begin again at 0: transformers reads them off `position_ids` and
  masks attention between samples (`masking_utils.find_packed_sequence_indices`), but only where it is given no
  `attention_mask` and no cache. With a cache, which is every config's default, samples see each other in silence:
  call models with `inputs`, which says so.
- A label stands at its own token, as transformers' losses take it (they shift); a sample's first token has none, for
  what comes before it is another sample.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from runtime.text.render import Tokens

IGNORED = -100
"""The label of a token that is not trained: `torch.nn.functional.cross_entropy`'s own."""

STEP = 16
"""Padded lengths are multiples of this many tokens: a multiple of the 8 that tensor cores want in bf16 (NVIDIA, Matrix
Multiplication Background User's Guide), and few enough shapes for allocators and caches. At 64 a fifth of the places of
samples of 160 tokens was padding."""

NOBODY = -1
"""The sample number of padding."""


@attrs.frozen(kw_only=True)
class Batch:
    """Sequences of one length, all of shape (sequences, length), int64 but the mask, which is bool.

    `samples` numbers each token's sample inside the batch, from 0; NOBODY for padding. `attention_mask` is true for
    tokens and false for padding; None for packed sequences, which `position_ids` keep apart.
    """

    input_ids: Tensor
    labels: Tensor
    position_ids: Tensor
    samples: Tensor
    attention_mask: Tensor | None


def pack(
    lengths: Sequence[int], order: Sequence[int], length: int, window: int = 1024
) -> Iterator[tuple[int, ...]]:
    """Which samples share a sequence of `length` tokens: each once, from `lengths[sample]`, `window` by `window`.

    Sequences come in the order of their earliest sample, samples in the epoch's order. Raises ValueError for a sample
    that is empty or longer than a sequence.
    """
    _check(lengths, order, length)
    for at in range(0, len(order), window):
        part = order[at : at + window]
        for bin_ in _best_fit([lengths[sample] for sample in part], length):
            yield tuple(part[place] for place in bin_)


def _best_fit(lengths: Sequence[int], length: int) -> list[list[int]]:
    """Bins of places, longest sample first, each into the open bin that it leaves the least space in."""
    bins: list[list[int]] = []
    spaces: list[tuple[int, int]] = []  # (space left, bin), sorted
    for place in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
        found = bisect.bisect_left(spaces, (lengths[place], 0))
        if found == len(spaces):
            bins.append([])
            space, bin_ = length, len(bins) - 1
        else:
            space, bin_ = spaces.pop(found)
        bins[bin_].append(place)
        bisect.insort(spaces, (space - lengths[place], bin_))
    return sorted(sorted(bin_) for bin_ in bins)


def group(
    lengths: Sequence[int], order: Sequence[int], size: int, window: int = 1024
) -> Iterator[tuple[int, ...]]:
    """Groups of `size` samples of like length, for padding: each sample once, `window` by `window`.

    Groups come in the order of their earliest sample; only an epoch's last group may be smaller. The window is cut to
    a multiple of `size`.
    """
    _check(lengths, order, None)
    window = max(window // size, 1) * size
    for at in range(0, len(order), window):
        places = sorted(
            range(at, min(at + window, len(order))), key=lambda place: (lengths[order[place]], place)
        )
        parts = [sorted(places[start : start + size]) for start in range(0, len(places), size)]
        whole = sorted(part for part in parts if len(part) == size)
        for part in [*whole, *parts[len(whole) :]]:
            yield tuple(order[place] for place in part)


def padded_length(longest: int, most: int | None = None) -> int:
    """The length that sequences of up to `longest` tokens are padded to, which is never above `most`."""
    length = max(-(-longest // STEP), 1) * STEP
    return length if most is None else min(length, most)


def packed(sequences: Sequence[Sequence[Tokens]], length: int, pad: int) -> Batch:
    """Sequences of several samples each, end to end, filled up with the token `pad` to `length` tokens.

    The padding is a sample of its own to attention, with no labels.
    """
    rows = []
    number = 0
    for samples in sequences:
        row = _Row()
        for sample in samples:
            row.add(sample, number)
            number += 1
        rows.append(row.fill(length, pad))
    return _batch(rows, None)


def padded(samples: Sequence[Tokens], pad: int, most: int | None = None) -> Batch:
    """One sample a sequence, padded at the right with the token `pad` to a common `padded_length`.

    `most`: the length that the samples are cut to. It is what memory was planned for, and may be all that a model has
    positions for, so padding goes no further.
    """
    length = padded_length(max(len(sample.ids) for sample in samples), most)
    rows = []
    for number, sample in enumerate(samples):
        row = _Row()
        row.add(sample, number)
        rows.append(row.fill(length, pad))
    mask = torch.tensor([row.samples for row in rows]) != NOBODY
    return _batch(rows, mask)


def inputs(batch: Batch) -> dict[str, Any]:
    """What a causal model of transformers is called with, so that no sample sees another."""
    mask = {} if batch.attention_mask is None else {"attention_mask": batch.attention_mask}
    return {"input_ids": batch.input_ids, "position_ids": batch.position_ids, "use_cache": False, **mask}


class _Row:
    """A sequence as it is filled."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.labels: list[int] = []
        self.positions: list[int] = []
        self.samples: list[int] = []

    def add(self, sample: Tokens, number: int) -> None:
        labels = [token if on else IGNORED for token, on in zip(sample.ids, sample.trained, strict=True)]
        self.ids += sample.ids
        self.labels += [IGNORED, *labels[1:]][: len(labels)]
        self.positions += range(len(sample.ids))
        self.samples += [number] * len(sample.ids)

    def fill(self, length: int, pad: int) -> _Row:
        rest = length - len(self.ids)
        if rest < 0:
            raise ValueError(f"{len(self.ids)} tokens do not go into a sequence of {length}")
        self.add(Tokens(ids=(pad,) * rest, trained=(False,) * rest), NOBODY)
        return self


def _batch(rows: Sequence[_Row], mask: Tensor | None) -> Batch:
    return Batch(
        input_ids=torch.tensor([row.ids for row in rows]),
        labels=torch.tensor([row.labels for row in rows]),
        position_ids=torch.tensor([row.positions for row in rows]),
        samples=torch.tensor([row.samples for row in rows]),
        attention_mask=mask,
    )


def _check(lengths: Sequence[int], order: Sequence[int], length: int | None) -> None:
    for sample in order:
        if lengths[sample] < 1 or (length is not None and lengths[sample] > length):
            raise ValueError(
                f"sample {sample} has {lengths[sample]} tokens, of 1 to {length or 'any number'}"
            )
