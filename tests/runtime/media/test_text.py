"""A plan's text as batches: what is held out stays out, and no batch is larger than was planned for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config

from lorac import Text
from runtime import media, plan
from runtime import run as running
from runtime.families import causal_lm
from runtime.media.text import Texts, trained
from tests import texts

STEPS = 12
"""More than two epochs of the sets here."""

Prepare = Callable[..., tuple[Texts, plan.Plan, Any]]


@pytest.fixture
def prepare(cache: Path, tmp_path: Path) -> Prepare:
    """The feed of an experiment's plan, the plan and the modules."""

    def made(base: Path, data: Any, **changes: Any) -> tuple[Texts, plan.Plan, Any]:
        of = texts.planned(base, data, tmp_path / "planned", **changes)
        places = texts.where(of, tmp_path, cache)
        device = torch.device("cpu")
        modules, tokenizers = running.load(causal_lm, of.program, places, device)  # type: ignore[arg-type]
        medium = media.medium(of.program.data)
        feed = medium.prepare(causal_lm, modules, tokenizers, of.program, places, device)
        assert isinstance(feed, Texts)
        return feed, of, modules

    return made


@pytest.mark.parametrize("packing", [True, False])
def test_what_is_held_out_reaches_no_training_batch(
    prepare: Prepare, tiny_lm: Path, tiny_text: Path, packing: bool
) -> None:
    feed, of, _ = prepare(tiny_lm, tiny_text, held_out=0.3, packing=packing)
    (corpus,) = feed.corpora
    held = {corpus.held_out.sample(number).ids for number in range(len(corpus.held_out))}
    rows = set(corpus.held_out.rows.tolist())
    seen = set()
    for step in range(STEPS):
        for group in feed.cut(feed.step(step), 2):
            for row in group:
                assert not {feed.tokens(number).ids for number in row.samples} & held
            seen |= {int(name.rpartition(" row ")[2]) for name in feed.names(group)}

    assert len(held) > 0
    assert not seen & rows
    assert seen | rows == set(range(1, 15))
    assert len(seen) == of.program.data.files[0].trained


def test_all_that_is_held_out_is_measured_once_with_its_trained_tokens(
    prepare: Prepare, tiny_lm: Path, tiny_text: Path
) -> None:
    feed, _, _ = prepare(tiny_lm, tiny_text, held_out=0.3)
    side = feed.corpora[0].held_out
    batches = list(feed.held_out(2))

    rows = [row for _, rows in batches for row in rows]

    assert [sample for sample, _ in rows] == list(range(len(side)))
    assert sorted(weight for _, weight in rows) == sorted(
        trained(side.sample(number)) for number in range(len(side))
    )
    assert all(batch["input_ids"].shape[0] == len(rows) <= 2 for batch, rows in batches)
    assert sum(batch["tokens"].numel() for batch, _ in batches) == sum(weight for _, weight in rows)


@pytest.mark.parametrize("micro_batch", [1, 3, 4])
def test_a_step_is_cut_into_micro_batches_without_losing_a_sequence(
    prepare: Prepare, tiny_lm: Path, tiny_text: Path, micro_batch: int
) -> None:
    feed, _, _ = prepare(tiny_lm, tiny_text, packing=False)
    samples = feed.step(0)
    groups = feed.cut(samples, micro_batch)

    assert {len(group) for group in groups[:-1]} <= {micro_batch}
    assert sorted(row.samples for group in groups for row in group) == sorted(row.samples for row in samples)


@pytest.mark.parametrize("packing", [True, False])
def test_a_micro_batch_is_as_wide_as_the_order_says_beforehand(
    prepare: Prepare, tiny_lm: Path, tiny_text: Path, packing: bool
) -> None:
    feed, _, _ = prepare(tiny_lm, tiny_text, packing=packing)

    for group in feed.cut(feed.step(0), 2):
        assert feed.batch(group)["input_ids"].shape == (len(group), feed.order.width(group))


def test_no_batch_is_longer_than_was_planned_for(prepare: Prepare, tmp_path: Path) -> None:
    """GPT-2 has positions for so many tokens and no more; padding to a round length must not ask for others."""
    length = 100
    config = GPT2Config(vocab_size=320, n_embd=32, n_layer=1, n_head=4, n_positions=length)
    base = causal_lm.tiny(tmp_path / "base", config)
    rows = [{"text": f"{at:03} " * 30} for at in range(12)]
    data = texts.write(tmp_path / "data" / "long.jsonl", rows)
    feed, of, modules = prepare(base, (Text(str(data)),), packing=False, length=length, held_out=0.3)
    batches = [feed.batch(feed.step(0)), *(batch for batch, _ in feed.held_out(4))]

    assert (
        {batch["input_ids"].shape[1] for batch in batches} == set(plan.largest(of.program.data)) == {length}
    )
    for batch in batches:
        with torch.no_grad():
            found = causal_lm.loss(modules, batch, of.program.base, of.program.train.objective)
        assert found.isfinite().all()
