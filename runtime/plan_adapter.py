"""The trained part of a plan. A part of `runtime.plan`, which has the names."""

from __future__ import annotations

import re
from typing import Literal

import attrs

Init = Literal["kaiming", "gaussian", "pissa"]


@attrs.frozen(kw_only=True)
class RankOf:
    """Another rank for the modules whose path `pattern` matches whole."""

    pattern: str
    rank: int


@attrs.frozen(kw_only=True)
class AlphaOf:
    """Another alpha for the modules whose path `pattern` matches whole."""

    pattern: str
    alpha: float


@attrs.frozen(kw_only=True)
class Adapter:
    """The trained part. `targets` maps component -> regex (full match on the module's path in it).

    The update is scaled by alpha / rank, with `rslora` by alpha / √rank (Kalajdzievski 2023). A method without a rank
    has 0. Of `ranks` and `alphas` the last one that matches counts. `dora` learns the lengths of weights' rows or
    columns, its `magnitudes`, apart (Liu et al. 2024). `factor` is LoKr's; -1 is the nearest to a square.
    `modules_to_save`, as PEFT calls it, maps component -> paths of the modules that are trained whole beside it.
    """

    method: str
    rank: int
    alpha: float
    dropout: float
    init: Init
    targets: dict[str, str]
    modules: dict[str, int]
    rslora: bool = False
    dora: bool = False
    magnitudes: Literal["rows", "columns"] = "rows"
    factor: int = -1
    ranks: tuple[RankOf, ...] = ()
    alphas: tuple[AlphaOf, ...] = ()
    rank_dropout: float = 0.0
    module_dropout: float = 0.0
    modules_to_save: dict[str, tuple[str, ...]] = attrs.field(factory=dict)


def rank_of(adapter: Adapter, module: str) -> int:
    """The rank of the module of this path."""
    matching = (one.rank for one in reversed(adapter.ranks) if re.fullmatch(one.pattern, module))
    return next(matching, adapter.rank)


def alpha_of(adapter: Adapter, module: str) -> float:
    """The alpha of the module of this path."""
    matching = (one.alpha for one in reversed(adapter.alphas) if re.fullmatch(one.pattern, module))
    return next(matching, adapter.alpha)
