"""What both trainers of the picture benchmark are given: base, pictures, adapter, optimizer, steps."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import cattrs

ROOT = Path(__file__).parents[3]


@attrs.frozen(kw_only=True)
class Setting:
    """The experiment, the same for both; paths are absolute.

    `base` is a diffusers folder, `train` a folder of pictures with metadata.csv, `held_out` another, or empty: then no
    loss is measured. Rates are constant; half of the pictures are mirrored. A checkpoint is written each `every` steps
    (0: none before the last).
    """

    title: str
    base: str
    train: str
    held_out: str
    resolution: int
    steps: int
    every: int
    batch: int
    learning_rate: float
    rank: int = 16
    weight_decay: float = 1e-2
    max_grad_norm: float = 1.0
    seed: int = 7
    warm_up: int = 2
    """The first steps, which no speed is taken from."""


@attrs.frozen(kw_only=True)
class Way:
    """How a trainer does it: what it may choose for speed and memory, without changing what is learned.

    `dtype`: float32; bfloat16 (frozen weights, and products by autocast). `micro_batch`: 0 where lorac plans it.
    """

    trainer: str
    dtype: str
    micro_batch: int
    recompute: bool = False

    @property
    def name(self) -> str:
        micro = f"micro-batch {self.micro_batch or 'planned'}"
        return " ".join([self.trainer, self.dtype, micro, *["recompute"] * self.recompute])


@attrs.frozen(kw_only=True)
class Task:
    """A process's work, as JSON."""

    setting: Setting
    way: Way

    def dumps(self) -> str:
        return json.dumps(cattrs.unstructure(self))

    @staticmethod
    def loads(text: str) -> Task:
        return cattrs.structure(json.loads(text), Task)
