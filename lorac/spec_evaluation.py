"""The words of a spec for what is decided by the loss on what is held out.

A part of `lorac.spec`, which is where others find them.
"""

from __future__ import annotations

from typing import Literal

from lorac.parts import Auto, part, setting
from lorac.rules import choice, whole


@part("evaluation")
class Evaluation:
    """What is decided by the loss on what is held out: which checkpoint is exported, and when a run ends early."""

    choose: Auto | Literal["best", "last"] = setting(
        choice("best", "last", auto="open"),
        '"best" is the earliest checkpoint within one standard error of the lowest held-out loss; '
        'Auto() is "best" where something is held out.',
        default=Auto(),
    )
    patience: int = setting(
        whole(ge=0, le=10_000, unit="checkpoints"),
        "End the run after so many checkpoints without a lower held-out loss; 0: train all steps.",
        default=0,
    )
