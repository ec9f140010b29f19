"""Transformers in their publishers' single-file names, where the projections of attention are one fused layer.

A layout is a table: an original layer -> the layers of diffusers that its rows are, in their order. diffusers has
converters of its own, but Flux.1's takes no width but 3072, and both need tensors where names alone are asked for; they
are what the tests compare with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import attrs
import torch
from torch import Tensor

from runtime.families.protocol import Original, Rows

Table = Mapping[str, tuple[str, ...]]


@attrs.frozen(kw_only=True)
class Layout:
    """`around`: what is in no block; `blocks`: a list of blocks -> its name in diffusers, and its table."""

    around: Table
    blocks: Mapping[str, tuple[str, Table]]


LEAVES = {"scale": "weight"}
"""What an original parameter is called in diffusers, where it differs: a norm's."""


def weights(
    layout: Layout, names: Iterable[str], load: Callable[[str], Tensor], prefix: str, width: int
) -> dict[str, Tensor]:
    """The weights below `prefix` under diffusers' names; `width` is the model's inner one."""
    found: dict[str, Tensor] = {}
    for name, ours in placed(layout, names, prefix):
        tensor = load(name)
        if _is_swapped(name, tensor, width):
            shift, scale = tensor.chunk(2)
            tensor = torch.cat([scale, shift])
        rows = [width] * (len(ours) - 1)
        parts = tensor.split([*rows, tensor.shape[0] - sum(rows)]) if rows else [tensor]
        # A part is copied, so that it does not hold the whole.
        found |= {one: part.clone() if rows else part for one, part in zip(ours, parts, strict=True)}
    return found


def original(layout: Layout, names: Iterable[str], prefix: str, width: int) -> dict[str, Original]:
    """diffusers' name -> the original one, or its rows, of all weights that lie alike in both; as for `weights`."""
    found: dict[str, Original] = {}
    for name, ours in placed(layout, names, prefix):
        if ADA_NORM in name:
            continue
        *others, last = ours
        found |= {one: Rows(name, at * width, (at + 1) * width) for at, one in enumerate(others)}
        found[last] = Rows(name, len(others) * width, None) if others else name
    return found


def placed(layout: Layout, names: Iterable[str], prefix: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each name below `prefix` that the layout knows, with the names in diffusers that its rows go to."""
    for name in names:
        if not name.startswith(prefix):
            continue
        module, _, leaf = name.removeprefix(prefix).rpartition(".")
        stem, table = "", layout.around
        kind, _, inner = module.partition(".")
        if kind in layout.blocks:
            number, _, module = inner.partition(".")
            theirs, table = layout.blocks[kind]
            stem = f"{theirs}.{number}."
        if module in table:
            yield name, tuple(f"{stem}{part}.{LEAVES.get(leaf, leaf)}" for part in table[module])


ADA_NORM = "adaLN_modulation.1"


def _is_swapped(name: str, tensor: Tensor, width: int) -> bool:
    """Whether it makes a last norm's shift and scale, which diffusers has the other way round."""
    return ADA_NORM in name and tensor.shape[0] == 2 * width
