"""What every trainer of the benchmark is given: model, rows, adapter, optimizer, steps."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import cattrs

ROOT = Path(__file__).parents[3]
JARGON = ROOT / "specs" / "jargon" / "jargon.jsonl"
HELD_OUT = 0.1
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""All linear layers of SmolLM2's (Llama's) blocks."""


@attrs.frozen(kw_only=True)
class Setting:
    """The experiment, the same for all; paths are absolute.

    `model` is a Transformers folder, `converted` the same as LitGPT wants it; `train` and `held_out` are JSONL of
    instruction and output. A step's batch is `batch` rows, of which `train` has as many as the steps take, or
    `packed_batch` sequences of `length` tokens, into which about as many rows go.
    """

    model: str
    converted: str = ""
    train: str
    train_packed: str
    held_out: str
    steps: int
    batch: int = 8
    packed_batch: int = 2
    length: int = 512
    rank: int = 16
    alpha: int = 32
    targets: tuple[str, ...] = TARGETS
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    seed: int = 7
    warm_up: int = 2
    """The first steps, which no speed is taken from."""
    held_out_rows: int = 32


@attrs.frozen(kw_only=True)
class Way:
    """How a trainer does it: what it may choose for speed and memory, without changing what is learned.

    `batches`: padded (in the file's order), grouped (rows of like length), flattened (a micro-batch end to end, kept
    apart by positions), packed (sequences of `length` tokens).
    `dtype`: float32; autocast (float32 weights, bf16 products); bfloat16 (frozen weights too).
    `micro_batch`: 0 where the trainer chooses it.
    """

    trainer: str
    batches: str
    dtype: str
    micro_batch: int
    recompute: bool = False
    compile: bool = False

    @property
    def is_packed(self) -> bool:
        return self.batches == "packed"

    @property
    def kind(self) -> str:
        """What is compared with each other: the same batches and the same precision of the products."""
        return f"{'packed' if self.is_packed else 'rows'}, {'float32' if self.dtype == 'float32' else 'bfloat16'}"

    @property
    def name(self) -> str:
        extras = [word for word, on in (("recompute", self.recompute), ("compile", self.compile)) if on]
        size = f"micro-batch {self.micro_batch}" if self.micro_batch else "planned micro-batch"
        return " ".join([self.trainer, self.batches, self.dtype, size, *extras])


@attrs.frozen(kw_only=True)
class Task:
    """A process's work, as JSON."""

    setting: Setting
    way: Way

    @property
    def batch(self) -> int:
        """Rows, or packed sequences, of a step."""
        return self.setting.packed_batch if self.way.is_packed else self.setting.batch

    @property
    def rows(self) -> str:
        """The file of rows to train on."""
        return self.setting.train_packed if self.way.is_packed else self.setting.train

    @property
    def micro_batches(self) -> int:
        """Of a step. Raises ValueError where they are not of one size."""
        if self.batch % self.way.micro_batch:
            raise ValueError(f"micro-batch {self.way.micro_batch} does not divide {self.batch}")
        return self.batch // self.way.micro_batch

    def dumps(self) -> str:
        return json.dumps(cattrs.unstructure(self))

    @staticmethod
    def loads(text: str) -> Task:
        return cattrs.structure(json.loads(text), Task)


def shuffled_rows() -> list[dict[str, Any]]:
    """The jargon rows in one order for all; the first `HELD_OUT` of them are held out."""
    rows = [json.loads(line) for line in JARGON.read_text(encoding="utf-8").splitlines()]
    random.Random(0).shuffle(rows)
    return rows


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def messages(row: dict[str, Any]) -> list[dict[str, str]]:
    """A row as the conversation that all trainers render through the model's own template."""
    return [
        {"role": "user", "content": row["instruction"]},
        {"role": "assistant", "content": row["output"]},
    ]
