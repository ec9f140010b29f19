"""What a plan of the right shape still may not say. A part of `runtime.plan`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from runtime import names
from runtime.plan_adapter import Adapter, called
from runtime.plan_data import each_file, wrong_data
from runtime.plan_objective import wrong_objective

if TYPE_CHECKING:
    from runtime.plan import Answers, Plan, Program, Samples


def wrongs(plan: Plan, plan_hash: str) -> list[str]:
    """What a plan of the right shape, whose program has this hash, still may not say."""
    program, outputs = plan.program, plan.outputs
    train, data, adapter, compute = program.train, program.data, program.adapter, program.compute
    found = []
    if name_fault := names.wrong(outputs.name):
        found.append(f"outputs.name {name_fault}, got {outputs.name!r}")
    if plan_hash != plan.plan_hash:
        found.append("plan_hash does not match the program: the plan was edited or damaged")
    points = [
        (train.micro_batch, train.accumulation),
        *((f.micro_batch, f.accumulation) for f in train.fallbacks),
    ]
    for micro, accumulation in points:
        product = micro * accumulation * train.processes
        if product != train.effective_batch:
            found.append(
                f"micro_batch {micro} × accumulation {accumulation} × processes {train.processes}"
                f" is {product}, not effective_batch {train.effective_batch}"
            )
    for name, value, low in [
        ("train.steps", train.steps, 1),
        ("train.micro_batch", train.micro_batch, 1),
        ("train.accumulation", train.accumulation, 1),
        ("train.processes", train.processes, 1),
        ("base.clip_skip", program.base.clip_skip, 1),
        ("train.schedule.warmup_steps", train.schedule.warmup_steps, 0),
        ("train.schedule.cycles", train.schedule.cycles, 1),
        ("train.schedule.decay_steps", train.schedule.decay_steps, 0),
        ("compute.attention_chunks", compute.attention_chunks, 1),
        ("compute.threads", compute.threads, 1 if compute.device == "cpu" else 0),
        ("adapter.rank", adapter.rank, 0),
        *[(f"adapter.ranks {one.pattern}", one.rank, 1) for one in adapter.ranks],
        ("evaluation.patience", program.evaluation.patience, 0),
        ("evaluation.every", program.evaluation.every, 0),
        ("outputs.save_steps", outputs.save_steps, 0),
        ("outputs.keep_checkpoints", outputs.keep_checkpoints, 1),
        *_samples_bounds(outputs.samples),
    ]:
        if value < low:
            found.append(f"{name} must be at least {low}, got {value}")
    for name in ("dropout", "rank_dropout", "module_dropout"):
        if not 0 <= getattr(adapter, name) < 1:
            found.append(f"adapter.{name} must be at least 0 and below 1, got {getattr(adapter, name)}")
    if not 0 <= train.schedule.min_ratio <= 1:
        found.append(f"train.schedule.min_ratio must be between 0 and 1, got {train.schedule.min_ratio}")
    if not 0 <= train.ema < 1:
        found.append(f"train.ema must be at least 0 and below 1, got {train.ema}")
    for pattern in [*(one.pattern for one in adapter.ranks), *(one.pattern for one in adapter.alphas)]:
        try:
            re.compile(pattern)
        except re.error as error:
            found.append(f"adapter has {pattern!r}, which is no regular expression: {error}")
    found += _wrong_words(adapter, data.kind)
    if compute.sharded:
        beside = {
            "only one process": train.processes == 1,
            f"a base in {compute.quantization}": compute.quantization != "none",
            "blocks offloaded": any("." in name for name in compute.offloaded),
            "a fallback to a smaller micro-batch": bool(train.fallbacks),
        }
        found += [f"compute.sharded cannot go with {what}" for what, holds in beside.items() if holds]
    if compute.compiled and (reason := why_eager(program)):
        found.append(f"compute.compiled cannot be: {reason[0]}")
    if data.kind != "text" and adapter.modules_to_save:
        found.append("adapter.modules_to_save is for language models, and the data are pictures")
    if program.evaluation != type(program.evaluation)() and not data.held_out:
        found.append("evaluation decides by what is held out, and data.held_out is 0")
    if program.locked and not any(each_file(data)):
        found.append("a locked plan has no data")
    found += wrong_objective(train.objective, data.kind, program.base.prediction_type)
    return found + wrong_data(data)


def why_eager(program: Program) -> tuple[str, str] | None:
    """Why a program's blocks cannot be compiled, and what would change that; None where they can.

    Each is measured, or a limit of torch's, in docs/LOG.md: "steps compiled by torch".
    """
    data, adapter, compute = program.data, program.adapter, program.compute
    drops = adapter.dropout or adapter.rank_dropout or adapter.module_dropout
    reasons = (
        (compute.device != "cpu", "not on a card: its memory could not be traced", "plan for the CPU"),
        (data.kind != "text", "a picture's blocks have too many shapes", "leave it out"),
        (
            data.kind == "text" and not data.packing,
            "rows have many lengths",
            "Sequences(packing=True) makes them one",
        ),
        (compute.dtype != "bf16", f"not in {compute.dtype}: little would be gained", "Fit(dtype='bf16')"),
        (drops, "dropout's masks cannot be traced", "leave dropout out"),
        (
            program.train.objective.neftune_alpha,
            "NEFTune's noise cannot be traced",
            "leave train.neftune_alpha out",
        ),
        (program.train.processes > 1, "not with several processes", "Fit(processes=1)"),
        (
            compute.quantization != "none",
            f"not with a base in {compute.quantization}",
            "Fit(quantization='none')",
        ),
        (any("." in name for name in compute.offloaded), "not with blocks offloaded", "Fit(offload='none')"),
        (compute.attention_chunks > 1, "not with attention in slices", "Fit(attention_chunks=1)"),
    )
    return next(((why, hint) for holds, why, hint in reasons if holds), None)


def _wrong_words(adapter: Adapter, kind: str) -> Iterator[str]:
    """What is wrong with the words that have vectors of their own: their names are files' names."""
    if adapter.words and (kind != "images" or not adapter.word_embeddings):
        yield "adapter.words needs pictures, and adapter.word_embeddings that say where the vectors are"
    called_by = [called(word).lower() for word in adapter.words]
    for word, name in zip(adapter.words, called_by, strict=True):
        if not re.fullmatch(names.WORD, word.word) or names.wrong(name):
            yield f"adapter.words has {word.word!r}, which cannot be a word with a file of its own"
        if called_by.count(name) > 1:
            yield f"adapter.words has two with the file {name}.safetensors"
        if word.vectors < 1 or word.learning_rate < 0 or not word.initial.strip():
            yield f"adapter.words {word.word!r} must have a vector, a rate of 0 or more, and an initial word"


def _samples_bounds(samples: Samples | Answers) -> list[tuple[str, int, int]]:
    if samples.kind == "pictures":
        return [("outputs.samples.steps", samples.steps, 1)]
    return [("outputs.samples.max_tokens", samples.max_tokens, 1)]
