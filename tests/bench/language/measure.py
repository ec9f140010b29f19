"""What is measured in a trainer's process, alike for each: time by step, tokens, memory, losses."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import cattrs
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase, TrainerCallback

from runtime.text.packing import IGNORED
from runtime.text.render import Tokens, conversation, cut
from runtime.text.spans import chat_of
from tests.bench.clock import Clock
from tests.bench.language.setting import Setting, Task, messages


@attrs.frozen(kw_only=True)
class Seen:
    """What a micro-batch held: trained tokens, all tokens, and places with padding."""

    trained: int
    tokens: int
    places: int


@attrs.frozen(kw_only=True)
class Result:
    """One run. Seconds and tokens are of the steps after the warm-up; memory is resident bytes of the process.

    `padding` is the share of places that hold no token; `cpu_seconds_per_step` are of all threads, which other work on
    the machine changes less than wall time. `start_seconds` go from the process's start to its first step.
    `peak_bytes` is the most since the process began, `step_peak_bytes` since its first step; `held_out_loss` is the
    mean over trained tokens in float32, `last_loss` the mean over the last quarter of the steps.
    """

    name: str
    trained_per_second: float
    trained_per_cpu_second: float
    tokens_per_second: float
    seconds_per_step: float
    cpu_seconds_per_step: float
    padding: float
    start_seconds: float
    peak_bytes: int
    step_peak_bytes: int
    loaded_bytes: int
    last_loss: float
    held_out_loss: float
    steps: int
    micro_batches_per_step: int
    losses: list[float]


class Counting:
    """A collator that counts what the wrapped one makes."""

    def __init__(self, collator: Callable[[list[Any]], Any]) -> None:
        self.collator = collator
        self.seen: list[Seen] = []

    def __call__(self, features: list[Any]) -> Any:
        batch = self.collator(features)
        places = batch["input_ids"].numel()
        mask = batch.get("attention_mask")
        tokens = places if mask is None else int(mask.sum())
        trained = int((batch["labels"] != IGNORED).sum())
        self.seen.append(Seen(trained=trained, tokens=tokens, places=places))
        return batch


def by_step(seen: Sequence[Seen], steps: int, micro_batches: int) -> list[list[Seen]]:
    """The micro-batches of each step; trainers fetch one more than they use."""
    return [list(seen[at * micro_batches : (at + 1) * micro_batches]) for at in range(steps)]


class Watching(TrainerCallback):
    """Has a clock see what transformers' Trainer does."""

    def __init__(self) -> None:
        self.clock = Clock()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.clock.step_begins()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.clock.step_ends()

    def on_log(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if "loss" in given["logs"]:
            self.clock.losses.append(float(given["logs"]["loss"]))

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.clock.training_ends()


def result(task: Task, clock: Clock, seen: Sequence[Sequence[Seen]], held_out: float) -> Result:
    """Put together what clock and collator saw; `seen` has a list of micro-batches for each step."""
    steps, skipped = len(clock.ends), task.setting.warm_up
    if not skipped < steps == task.setting.steps == len(seen):
        raise ValueError(f"{steps} steps ended of {task.setting.steps}, {len(seen)} were seen")
    measured = [one for step in seen[skipped:] for one in step]
    seconds = clock.seconds(skipped)
    trained = sum(one.trained for one in measured)
    places = sum(one.places for one in measured)
    tokens = sum(one.tokens for one in measured)
    return Result(
        name=task.way.name,
        trained_per_second=trained / seconds,
        trained_per_cpu_second=trained / clock.cpu_seconds(skipped),
        tokens_per_second=tokens / seconds,
        seconds_per_step=seconds / (steps - skipped),
        cpu_seconds_per_step=clock.cpu_seconds(skipped) / (steps - skipped),
        padding=1 - tokens / places,
        start_seconds=clock.start_seconds,
        peak_bytes=clock.peak,
        step_peak_bytes=clock.step_peak,
        loaded_bytes=clock.loaded,
        last_loss=clock.last_loss(),
        held_out_loss=held_out,
        steps=steps,
        micro_batches_per_step=len(seen[0]),
        losses=clock.losses,
    )


def samples(path: str, tokenizer: PreTrainedTokenizerBase, length: int) -> list[Tokens]:
    """The rows of a file through the model's template, loss on the answers: one tokenisation for all trainers."""
    chat = chat_of(tokenizer)
    rows = map(json.loads, Path(path).read_text(encoding="utf-8").splitlines())
    rendered = (conversation(tokenizer, chat, messages(row), [False, True]) for row in rows)
    return [short for sample in rendered if (short := cut(sample, length))]


def features(found: Sequence[Tokens]) -> list[dict[str, list[int]]]:
    """Samples as the rows of a tokenised data set."""
    return [
        {
            "input_ids": list(sample.ids),
            "labels": [t if on else IGNORED for t, on in zip(sample.ids, sample.trained, strict=True)],
        }
        for sample in found
    ]


def logits(model: nn.Module, ids: Tensor) -> Tensor:
    """A Transformers model's, of ids [rows, tokens]: [rows, tokens, vocabulary]."""
    found: Tensor = model(input_ids=ids, use_cache=False).logits
    return found


@torch.no_grad()
def held_out_loss(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    setting: Setting,
    forward: Callable[[nn.Module, Tensor], Tensor] = logits,
) -> float:
    """Mean loss of the trained tokens of held-out rows, one row at a time, in float32."""
    model.float().eval()
    total, count = 0.0, 0
    for sample in samples(setting.held_out, tokenizer, setting.length)[: setting.held_out_rows]:
        ids = torch.tensor(sample.ids)
        found = forward(model, ids[None])[0, :-1]
        on = torch.tensor(sample.trained[1:])
        total += float(F.cross_entropy(found[on].float(), ids[1:][on], reduction="sum"))
        count += int(on.sum())
    return total / count


def main(run: Callable[[Task], Result]) -> None:
    """A runner's command line: the task as JSON, then the file for the result."""
    found = run(Task.loads(sys.argv[1]))
    Path(sys.argv[2]).write_text(json.dumps(cattrs.unstructure(found)), encoding="utf-8")
