"""Given batches train as they are written: Trainer's curve is a plain loop's, packed is as apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model_state_dict
from safetensors.torch import save_file
from torch.nn import functional as F

from runtime.families import causal_lm
from tests.bench.language.curve import Batches, adapted, losses

STEPS, LENGTH = 4, 24
RATES = (1e-2, 8e-3, 4e-3, 1e-3)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return causal_lm.tiny(tmp_path_factory.mktemp("tiny"))


def batches(model: Path, **changes: Any) -> Batches:
    """Two micro-batches a step, of one and of two sequences, with different counts of trained tokens."""
    draw = torch.Generator().manual_seed(1)
    steps = []
    for _ in range(STEPS):
        step = []
        for rows in (1, 2):
            ids = torch.randint(0, 256, (rows, LENGTH), generator=draw)
            labels = ids.clone()
            labels[:, : 4 * rows] = -100
            step.append({"input_ids": ids.tolist(), "labels": labels.tolist()})
        steps.append(tuple(step))
    fields = {
        "model": str(model),
        "rank": 4,
        "alpha": 8,
        "targets": ("q_proj", "down_proj"),
        "learning_rates": RATES,
        "steps": tuple(steps),
        **changes,
    }
    return Batches(**fields)


def by_hand(given: Batches) -> list[float]:
    """The same training as a loop of a few lines, each step's loss a mean over its trained tokens."""
    made = adapted(given)
    weights = [weight for weight in made.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, weight_decay=given.weight_decay)
    found = []
    for rate, step in zip(given.learning_rates, given.steps, strict=True):
        total, count = torch.tensor(0.0), 0
        for part in step:
            ids, labels = torch.tensor(part["input_ids"]), torch.tensor(part["labels"])[:, 1:]
            logits = made(input_ids=ids).logits[:, :-1]
            total = total + F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
            count += int((labels != -100).sum())
        optimizer.zero_grad()
        (total / count).backward()
        torch.nn.utils.clip_grad_norm_(weights, given.max_grad_norm)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        found.append(float(total.detach() / count))
    return found


def test_the_curve_is_that_of_a_plain_loop(model: Path) -> None:
    given = batches(model)
    found = losses(given, adapted(given))
    assert [step.learning_rate for step in found] == list(RATES)
    assert [step.loss for step in found] == pytest.approx(by_hand(given), rel=1e-6)
    assert found[0].loss != pytest.approx(found[-1].loss, rel=1e-3), "nothing was learned"


def test_samples_packed_with_their_positions_have_the_losses_that_they_have_apart(model: Path) -> None:
    apart = batches(model)
    packed = batches(model, steps=tuple((end_to_end(step),) for step in apart.steps))
    expected = [step.loss for step in losses(apart, adapted(apart))]
    assert [step.loss for step in losses(packed, adapted(packed))] == pytest.approx(expected, rel=1e-5)


def end_to_end(step: tuple[dict[str, list[list[int]]], ...]) -> dict[str, list[list[int]]]:
    """A step's sequences as one, positions beginning again."""
    rows = [(ids, labels) for part in step for ids, labels in zip(*part.values(), strict=True)]
    return {
        "input_ids": [[token for ids, _ in rows for token in ids]],
        "labels": [[label for _, labels in rows for label in (-100, *labels[1:])]],
        "position_ids": [[at for ids, _ in rows for at in range(len(ids))]],
    }


def test_it_begins_at_the_weights_of_a_file(model: Path, tmp_path: Path) -> None:
    given = batches(model)
    other = adapted(batches(model, seed=8))
    state = {name: weight.clone() + 0.05 for name, weight in get_peft_model_state_dict(other).items()}
    save_file(state, tmp_path / "init.safetensors")
    begun = adapted(given, tmp_path / "init.safetensors")
    assert all(torch.equal(weight, state[name]) for name, weight in get_peft_model_state_dict(begun).items())
    assert losses(given, begun)[0].loss != losses(given, adapted(given))[0].loss


def test_steps_of_unequal_micro_batches_are_refused(model: Path) -> None:
    steps = batches(model).steps
    with pytest.raises(ValueError, match="as many micro-batches"):
        batches(model, steps=(steps[0][:1], *steps[1:]))
