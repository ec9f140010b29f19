"""The benchmark's rows as LitGPT's data module: tokenised as for every trainer, in the file's order, padded by LitGPT.

LitGPT's command makes it from a config; so what it saw, and when, is the module's own.
"""

from __future__ import annotations

from typing import Any

import torch
from litgpt.data import DataModule, get_sft_collate_fn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from tests.bench.clock import Clock
from tests.bench.language import measure

CLOCK = Clock()
SEEN: list[measure.Seen] = []

Row = dict[str, Any]
collate = get_sft_collate_fn()


class Rows(DataModule):
    """The rows of `train`, once; `model` is where their tokenizer is. One of `held_out` is LitGPT's check of itself."""

    def __init__(self, model: str, train: str, held_out: str, length: int, steps: int) -> None:
        super().__init__()
        tokenizer = PreTrainedTokenizerFast.from_pretrained(model)
        self.rows = [_row(one) for one in measure.features(measure.samples(train, tokenizer, length))]
        self.checked = [
            _row(one) for one in measure.features(measure.samples(held_out, tokenizer, length)[:1])
        ]
        self.prompt_style = "smollm2"  # saved beside the adapter, and asked for nothing here
        register_optimizer_step_post_hook(lambda *_: step_ends(steps))

    def connect(self, tokenizer: Any = None, batch_size: int = 1, max_seq_length: int | None = None) -> None:
        self.micro_batch = batch_size

    def train_dataloader(self) -> DataLoader[Row]:
        return DataLoader(self.rows, batch_size=self.micro_batch, collate_fn=counted)

    def val_dataloader(self) -> DataLoader[Row]:
        return DataLoader(self.checked, collate_fn=collate)


def _row(features: dict[str, list[int]]) -> Row:
    """As LitGPT's SFTDataset gives it."""
    length = len(features["input_ids"])
    return {
        **{name: torch.tensor(values) for name, values in features.items()},
        "token_counts": {"raw": length, "raw_plus_prompt_template": length},
    }


def counted(rows: list[Row]) -> Row:
    """A micro-batch for training; the first is where the first step begins."""
    CLOCK.step_begins()
    batch: Row = collate(rows)
    SEEN.append(
        measure.Seen(
            trained=int((batch["labels"] != measure.IGNORED).sum()),
            tokens=sum(len(row["input_ids"]) for row in rows),
            places=batch["input_ids"].numel(),
        )
    )
    return batch


def step_ends(steps: int) -> None:
    CLOCK.step_ends()
    if len(CLOCK.ends) == steps:
        CLOCK.training_ends()  # what LitGPT does then, merging the adapter, is not training
