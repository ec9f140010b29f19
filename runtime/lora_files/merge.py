"""Several adapters as one: their sum, exactly, ranks side by side; or at a lower rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import attrs
import torch

from runtime.errors import InputError, Problem
from runtime.lora_files.adapter import Adapter, At, Update
from runtime.lora_files.convert import Target, converted
from runtime.lora_files.factors import Pair, concatenated, pair
from runtime.lora_files.keys import brief
from runtime.lora_files.names import placed
from runtime.lora_files.rebuilt import Tell, rebuilt, rounding
from runtime.lora_files.resize import Kept, reduced
from runtime.safeio import paths

OF_BASE = (
    "ss_base_model_version",
    "ss_v2",
    "ss_network_module",
    "ss_network_dim",
    "ss_network_alpha",
    "ss_output_name",
    "modelspec.architecture",
    "modelspec.implementation",
    "modelspec.sai_model_spec",
    "modelspec.prediction_type",
)
"""Metadata that holds for the sum as for the first: what it is for, and what is set anew."""


@attrs.frozen
class Weighted:
    """An adapter and how strongly it goes into the sum."""

    adapter: Adapter
    weight: float


def merged(
    weighted: Sequence[Weighted], rank: int | None, dtype: torch.dtype | None, tell: Tell
) -> tuple[Adapter, list[Kept], float]:
    """Σ weight · alpha / rank · B @ A in every module, in the style of the first adapter.

    Its rank is the sum of the ranks, or at most `rank`. `dtype`: of the file, else the widest of the inputs'. Returns
    it, what each component keeps (nothing where nothing is cut), and how far its dtype rounds it. Raises InputError
    for modules whose sizes differ.
    """
    adapters = _alike(weighted)
    terms: dict[At, list[Pair]] = {}
    first: dict[At, Update] = {}
    problems = []
    for adapter, weight in adapters:
        for at, update in adapter.updates.items():
            factors = pair(update)
            assert factors is not None and update.up is not None and update.down is not None
            known = first.setdefault(at, update)
            if _sides(known) != _sides(update):
                what = f"{brief(at[1])} is for a weight of {_sides(update)}, the first one's {_sides(known)}"
                problems.append(Problem(paths.display(adapter.path), what, "merge LoRAs of one kind of base"))
                continue
            terms.setdefault(at, []).append((factors[0] * weight, factors[1]))
    if problems:
        raise InputError(problems)
    factors_of: Mapping[At, Pair] = {at: concatenated(pairs) for at, pairs in terms.items()}
    kept: list[Kept] = []
    if rank is not None:
        factors_of, kept = reduced(dict(factors_of), rank, None, tell)
    like = attrs.evolve(adapters[0][0], updates=first, metadata=_common([a.metadata for a, _ in adapters]))
    result = rebuilt(like, factors_of, dtype or _widest(adapters))
    return result, kept, rounding(factors_of, result)


def _alike(weighted: Sequence[Weighted]) -> list[tuple[Adapter, float]]:
    """All in the first one's style."""
    style = weighted[0].adapter.style
    found = []
    among = None
    for one in weighted:
        adapter = one.adapter
        if adapter.style != style:
            among = among or placed(weighted[0].adapter).names
            adapter, _ = converted(adapter, cast(Target, _known(style, weighted[0].adapter)), among)
        found.append((adapter, one.weight))
    return found


def _known(style: str, of: Adapter) -> str:
    if style in ("kohya", "diffusers", "peft"):
        return style
    what = f"has names in the style {style}, and the others have another"
    raise InputError(Problem(paths.display(of.path), what, "lorac lora convert it first"))


def _sides(update: Update) -> str:
    assert update.up is not None and update.down is not None
    inner = update.down.shape[1:]
    kernel = f" × {inner[1]} × {inner[2]}" if len(inner) == 3 and tuple(inner[1:]) != (1, 1) else ""
    return f"{update.up.shape[0]} × {inner[0]}{kernel}"


def _widest(adapters: Sequence[tuple[Adapter, float]]) -> torch.dtype:
    dtypes = [u.down.dtype for adapter, _ in adapters for u in adapter.updates.values() if u.down is not None]
    found = dtypes[0]
    for dtype in dtypes[1:]:
        found = torch.promote_types(found, dtype)
    return found


def _common(metadata: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """What all files say alike, and what the first says of the base: the others' trainings are not this file's."""
    kept = {key: value for key, value in metadata[0].items() if all(m.get(key) == value for m in metadata)}
    return kept | {key: metadata[0][key] for key in OF_BASE if key in metadata[0]}
