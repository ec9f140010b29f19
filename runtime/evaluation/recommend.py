"""Which LoRA weight to use, by a stated rule: pure functions of rows at one checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from runtime.evaluate import Losses, difference
from runtime.evaluation import figures
from runtime.evaluation.results import Row

BY_PICTURES = (
    "the least weight whose pictures follow prompt and style as well as the best weight's, within one standard error "
    "(similarity + closeness, each in its own spread; the same prompts and seeds)"
)
BY_LOSS = "the weight with the lowest held-out loss"
PLANNED = "the plan's: nothing is held out and there is no judge to go by"
ALL_COPY = "; at every weight pictures come too near to the training pictures"
NOT_COPIED = "; weights whose pictures come too near to the training pictures are left out"


def weight(rows: Sequence[Row], planned: float) -> tuple[float, str]:
    """The recommended weight among these rows of one checkpoint, and why."""
    judged = [one for one in rows if one.pictures and all(p.similarity is not None for p in one.pictures)]
    if judged:
        apart = [one for one in judged if not copies(one)]
        left_out = "" if len(apart) == len(judged) else NOT_COPIED if apart else ALL_COPY
        return least_as_good(apart or judged), BY_PICTURES + left_out
    measured = [one for one in rows if one.loss is not None]
    if measured:
        return min(measured, key=lambda one: (one.loss.mean if one.loss else 0.0, one.weight)).weight, BY_LOSS
    return planned, PLANNED


def copies(row: Row) -> bool:
    """Whether more of a row's pictures are near to a training picture than chance explains."""
    return bool(signs(row))


def signs(row: Row) -> list[str]:
    """What tells that a row's pictures are copies."""
    count, total = sum(one.is_copy for one in row.pictures), len(row.pictures)
    trained, held = ([one.nearness for one in row.recited if one.trained is kind] for kind in (True, False))
    found = []
    if figures.is_no_accident(count, total):
        found.append(
            f"{count} of {total} pictures are as near to a training picture as hardly any two different pictures are"
        )
    if figures.is_by_heart(trained, held):
        found.append(
            f"{figures.by_heart(trained, held)} of {len(trained)} captions that were trained on give their own picture "
            f"back, nearer than any of {len(held)} held-out captions does"
        )
    return found


def least_as_good(rows: Sequence[Row]) -> float:
    """The least weight whose pictures score as well as the best weight's, by paired differences."""
    found = sorted(zip((one.weight for one in rows), scores(rows), strict=True), key=lambda pair: pair[0])
    best = min(found, key=lambda pair: sum(pair[1].sums))[1]
    for value, losses in found:
        gap, error = difference(losses, best)
        if gap <= error:
            return value
    raise AssertionError("the best is as good as itself")


def scores(rows: Sequence[Row]) -> list[Losses]:
    """Of each row's pictures what they lack in similarity and closeness, so that the least is the best."""
    total = np.zeros((len(rows), len(rows[0].pictures)))
    for name in ("similarity", "closeness"):
        values = np.array([[getattr(one, name) for one in row.pictures] for row in rows], dtype=float)
        total -= (values - values.mean()) / (values.std() or 1.0)
    return [Losses(sums=tuple(map(float, row)), weights=(1,) * len(row)) for row in total]
