"""evaluation.json: what was measured after the fact. For `report`, `compare` and whatever else reads it.

Every place is relative to the run's folder. A figure that cannot be had (no judge, nothing held out) is null.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import attrs

from runtime import evaluate, plan
from runtime.errors import PlanError, Problem
from runtime.safeio import atomic, paths, strict_json

FORMAT = 1
FILE = "evaluation.json"
GRID = "grid.png"
PICTURES = "evaluation"
"""The folder of the drawn pictures."""


@attrs.frozen(kw_only=True)
class Figure:
    """The mean over `count` samples; `low` and `high` bound it to 95 % (a bootstrap over samples)."""

    mean: float
    low: float
    high: float
    count: int


@attrs.frozen(kw_only=True)
class Judge:
    """The open_clip model that looked at pictures and prompts: its name as given, and its weights' sha256."""

    name: str
    digest: str


@attrs.frozen(kw_only=True)
class Picture:
    """A drawn picture. The judge's cosines: `similarity` with its prompt, `closeness` with the training pictures in the
    mean. `nearest` is the correlation of its pixels with the training picture that it is nearest to; `is_copy`: that is
    above the threshold."""

    file: str
    prompt: str
    seed: int
    similarity: float | None
    closeness: float | None
    nearest: float
    nearest_file: str
    is_copy: bool


@attrs.frozen(kw_only=True)
class Recited:
    """A picture drawn by a caption of the data. `nearness` is the correlation of its pixels with the caption's own
    picture, `own_file`; `trained`: that one was trained on, not held out."""

    file: str
    caption: str
    own_file: str
    nearness: float
    trained: bool


@attrs.frozen(kw_only=True)
class Answer:
    """What a language model said, and the share of its 4-grams of words that it had said before."""

    prompt: str
    text: str
    repetition: float


@attrs.frozen(kw_only=True)
class Row:
    """One checkpoint at one LoRA weight. `copies` is the share of pictures above the threshold; what is learned by
    heart shows first in those that are `recited`.

    `loss` is the held-out loss; `perplexity` is of text. `diversity` is the mean distance between pictures of one
    prompt: 1 - the judge's cosine, or without a judge 1 - the correlation of their pixels.
    """

    step: int
    weight: float
    loss: Figure | None = None
    perplexity: float | None = None
    similarity: Figure | None = None
    closeness: Figure | None = None
    diversity: Figure | None = None
    nearest: Figure | None = None
    copies: float | None = None
    repetition: Figure | None = None
    pictures: tuple[Picture, ...] = ()
    recited: tuple[Recited, ...] = ()
    answers: tuple[Answer, ...] = ()


@attrs.frozen(kw_only=True)
class Threshold:
    """From which nearness on a picture counts as a copy: of `pictures` that were not drawn, held out or trained on, the
    share `expected` is as near to a training picture other than itself."""

    value: float
    expected: float
    pictures: int


@attrs.frozen(kw_only=True)
class Chosen:
    """The exported checkpoint, the recommended LoRA weight, and why."""

    step: int
    weight: float
    step_reason: str
    weight_reason: str


@attrs.frozen(kw_only=True)
class Evaluation:
    """All that was measured. `base` is the row without the LoRA; `grid` is the X/Y picture, empty for text."""

    format: int = FORMAT
    plan_hash: str
    name: str
    kind: Literal["images", "text"]
    judge: Judge | None
    threshold: Threshold | None
    base: Row
    rows: tuple[Row, ...]
    chosen: Chosen
    grid: str
    warnings: tuple[str, ...]


def figure(values: Sequence[float]) -> Figure | None:
    """The mean of values, one a sample, with its interval; None of none."""
    return of_losses(evaluate.Losses(sums=tuple(values), weights=(1,) * len(values))) if values else None


def of_losses(losses: evaluate.Losses | None) -> Figure | None:
    """A held-out loss as a figure."""
    if losses is None:
        return None
    found = losses.interval()
    return Figure(mean=found.loss, low=found.low, high=found.high, count=found.samples)


def write(found: Evaluation, folder: Path) -> None:
    """Write it to a run's folder, whole or not at all. Raises MachineError."""
    atomic.write_text(folder / FILE, dumps(found))


def dumps(found: Evaluation) -> str:
    """It as canonical JSON."""
    return strict_json.canonical(plan.unstructure(found))


def read(folder: Path) -> Evaluation:
    """The evaluation of a run. Raises InputError where there is none, PlanError for another format."""
    path = folder / FILE
    data = strict_json.read(path)
    where, again = paths.display(path), f"make it again: lorac eval {paths.display(folder)}"
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise PlanError(Problem(where, f"is no evaluation of format {FORMAT}", again))
    return plan.structure(data, Evaluation, where)
