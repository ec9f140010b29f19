"""What the runs of `tests.validate.choice` say, as data and as a page."""

from __future__ import annotations

from typing import Any

import attrs


@attrs.frozen(kw_only=True)
class Found:
    pictures: int
    seed: int
    chosen: int
    losses: dict[int, float]
    truth: dict[int, dict[str, list[float]]]
    evaluation: dict[str, Any]
    advice: dict[str, Any]


def figures(a, b):
    return {}


def page(a):
    return ""
