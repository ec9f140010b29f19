"""What pictures and answers are measured by: pure functions of vectors of length 1 (rows) and of words."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
"""(N, D), each row of length 1: a dot product is a cosine."""

EXPECTED = 0.05
"""Share of pictures that are no copies and lie above the threshold."""
DOUBT = 0.01
"""Chance below which so many copies are no accident."""
N_GRAM = 4
"""Words of a repeated piece: seq-rep-4 (Welleck et al. 2020, arXiv:1908.04319)."""


def units(vectors: NDArray[np.float32]) -> Vectors:
    """Rows scaled to length 1; a row of zeros stays one."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), dtype=np.float32)


def closeness(pictures: Vectors, training: Vectors) -> list[float]:
    """Each picture's mean cosine with the training pictures (CLIP-I of Ruiz et al. 2023, arXiv:2208.12242)."""
    return [float(value) for value in (pictures @ training.T).mean(1)]


def diversity(pictures: Vectors) -> list[float]:
    """The distances, 1 - cosine, between each two pictures of one prompt."""
    first, second = np.triu_indices(len(pictures), 1)
    return [float(1 - value) for value in (pictures[first] * pictures[second]).sum(1)]


def nearest(pictures: Vectors, training: Vectors) -> tuple[list[float], list[int]]:
    """Each picture's cosine with the nearest training picture, and which one that is."""
    cosines = pictures @ training.T
    at = cosines.argmax(1)
    return [float(value) for value in cosines[np.arange(len(at)), at]], [int(place) for place in at]


def threshold(training: Vectors, of: NDArray[np.int64], held_out: Vectors) -> tuple[float, int]:
    """From which nearness on a picture counts as a copy, and by how many pictures that was told.

    It is the nearness that `EXPECTED` of the pictures that are no copies reach: those that are held out, and each
    training picture among the others. `of` is the picture that each row of `training` shows (mirrored ones show the
    same). Where there is a single picture only the very same counts.
    """
    cosines = training @ training.T
    cosines[of[:, None] == of[None, :]] = -1.0
    own = [cosines[of == picture].max() for picture in np.unique(of)] if len(np.unique(of)) > 1 else []
    found = [*own, *(nearest(held_out, training)[0] if len(held_out) else [])]
    return (float(np.quantile(found, 1 - EXPECTED, method="higher")) if found else 1.0 - 1e-4), len(found)


def is_no_accident(copies: int, count: int) -> bool:
    """Whether so many of `count` pictures above the threshold are more than chance explains (a binomial's tail)."""
    tail = sum(
        math.comb(count, k) * EXPECTED**k * (1 - EXPECTED) ** (count - k) for k in range(copies, count + 1)
    )
    return tail < DOUBT


def by_heart(trained: Sequence[float], held_out: Sequence[float]) -> int:
    """How many pictures by captions that were trained on are nearer to their own picture than any by a held-out caption
    is to its own."""
    return sum(one > max(held_out) for one in trained) if held_out else 0


def is_by_heart(trained: Sequence[float], held_out: Sequence[float]) -> bool:
    """Whether that is more than chance explains.

    What is held out is drawn by lot. So where nothing is learned by heart, any order of the two kinds is as likely as
    any other, and the first k are all among the m of the one, not the n of the other, by C(m, k) / C(m + n, k).
    """
    first = by_heart(trained, held_out)
    return math.comb(len(trained), first) / math.comb(len(trained) + len(held_out), first) < DOUBT


def repetition(text: str) -> float:
    """The share of a text's pieces of `N_GRAM` words that were there before; 0 of a shorter text."""
    words = text.split()
    pieces = [tuple(words[at : at + N_GRAM]) for at in range(len(words) - N_GRAM + 1)]
    return 1 - len(set(pieces)) / len(pieces) if pieces else 0.0
