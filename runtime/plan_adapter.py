"""The trained part of a plan. A part of `runtime.plan`, which has the names."""

from __future__ import annotations

import re
from typing import Literal

import attrs

from runtime import names

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
class Word:
    """A word of the captions that has vectors of its own (textual inversion, Gal et al. 2022, arXiv:2208.01618).

    They begin as those of `initial`'s tokens, spread over them.
    """

    word: str
    initial: str
    vectors: int
    learning_rate: float


@attrs.frozen(kw_only=True)
class Adapter:
    """The trained part. `targets` maps component -> regex (full match on the module's path in it).

    The update is scaled by alpha / rank, with `rslora` by alpha / √rank (Kalajdzievski 2023). A method without a rank
    has 0. Of `ranks` and `alphas` the last one that matches counts. `dora` learns the lengths of weights' rows or
    columns, its `magnitudes`, apart (Liu et al. 2024). `factor` is LoKr's; -1 is the nearest to a square.
    `modules_to_save`, as PEFT calls it, maps component -> paths of the modules that are trained whole beside it.
    `words` are trained beside it too, in the token embeddings that `word_embeddings` maps text encoders to.
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
    words: tuple[Word, ...] = ()
    word_embeddings: dict[str, str] = attrs.field(factory=dict)


def trained(adapter: Adapter) -> tuple[str, ...]:
    """The components of which something learns."""
    return tuple(dict.fromkeys([*adapter.targets, *adapter.word_embeddings]))


def called(word: Word) -> str:
    """What programs call a word by, after its file: "crest" for "<crest>"."""
    return names.of_word(word.word)


def token_of(word: Word) -> str:
    """A word's token, as diffusers' users write one: "<crest>"."""
    return f"<{called(word)}>"


def rank_of(adapter: Adapter, module: str) -> int:
    """The rank of the module of this path."""
    matching = (one.rank for one in reversed(adapter.ranks) if re.fullmatch(one.pattern, module))
    return next(matching, adapter.rank)


def alpha_of(adapter: Adapter, module: str) -> float:
    """The alpha of the module of this path."""
    matching = (one.alpha for one in reversed(adapter.alphas) if re.fullmatch(one.pattern, module))
    return next(matching, adapter.alpha)
