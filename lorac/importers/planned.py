"""What the plan beside one of our LoRAs says of its spec: all that decided the training, and what was written.

What the plan has no more: bounds of buckets and how captions were made (it has the captions), and what was left to the
planner (it has what the planner chose, and of that only what changes the result is carried).
"""

from __future__ import annotations

from typing import Any

import attrs

from lorac.importers import words
from lorac.importers.ledger import Ledger, fitted
from lorac.spec import (
    Adafactor,
    AdamW,
    Answers,
    Completions,
    Conversations,
    Instructions,
    Lion,
    LoKr,
    LoRA,
    Prodigy,
    ScheduleFreeAdamW,
    Text,
    TextualInversion,
)
from lorac.spec_adapter import ADAPTERS
from runtime import plan
from runtime.errors import PlanError

FILE = "plan.json"

SHAPES = {
    "alpaca": Instructions,
    "sharegpt": Conversations,
    "messages": Conversations,
    "prompt_completion": Completions,
    "text": Text,
}
OPTIMIZERS: dict[type, type] = {
    plan.AdamW: AdamW,
    plan.Adafactor: Adafactor,
    plan.Lion: Lion,
    plan.Prodigy: Prodigy,
    plan.ScheduleFreeAdamW: ScheduleFreeAdamW,
}
METHODS: dict[str, type] = {kind.METHOD: kind for kind in (LoRA, *ADAPTERS)}
COLUMNS = {"conversations": "messages"}
"""Columns of a shape (runtime.data.shapes) that a spec calls otherwise."""


def matching(data: Any, plan_hash: str) -> plan.Plan | None:
    """The plan that a file's parsed data are, if it is the one of that hash."""
    try:
        found = plan.structure(data, plan.Plan, FILE)
    except PlanError:
        return None
    return found if plan.hash_program(found.program) == plan_hash else None


def settle(book: Ledger, of: plan.Plan) -> None:
    """Give every field that the plan knows its value."""
    _data(book, of)
    _method(book, of.program.adapter)
    _words(book, of)
    _optimizer(book, of.program.train.optimizer)
    for field, value in {**_base(of), **_training(of), **_outputs(of), **_samples(book, of)}.items():
        _set(book, field, value)


def _set(book: Ledger, field: str, value: Any) -> None:
    """A plan's value, unless it is one that a spec says by leaving the field out."""
    if value is not None and not fitted(field, value, book.kinds)[1]:
        book.assume(field, value, FILE)


def _base(of: plan.Plan) -> dict[str, Any]:
    base = of.program.base
    return {
        "base.path": of.outputs.places.base,
        "base.parts": tuple(dict.fromkeys(of.outputs.places.parts.values())) or None,
        "base.family": base.family,
        "base.prediction_type": base.prediction_type,
        "base.clip_skip": base.clip_skip if base.clip_skip > 1 else None,
        "base.zero_terminal_snr": base.architecture.get("scheduler", {}).get(plan.ZERO_SNR),
    }


def _data(book: Ledger, of: plan.Plan) -> None:
    data, folder = of.program.data, of.outputs.places.data
    if isinstance(data, plan.Images):
        for field in (
            "resolution",
            "flip",
            "caption_dropout",
            "frames",
            "shuffle_tags",
            "tag_dropout",
            "held_out",
        ):
            _set(book, f"data.{field}", getattr(data, field))
        for clip in [item.clip for item in data.items if item.clip][:1]:
            _set(book, "data.fps", clip.fps)
            _set(book, "data.motion", clip.motion)
        if data.caption_variants > 1:
            for field in ("keep_tags", "caption_variants"):
                _set(book, f"data.{field}", getattr(data, field))
        for field in ("random_crop", "random_zoom", "color_jitter", "hue_jitter") if data.augment else ():
            _set(book, f"data.{field}", getattr(data.augment, field))
        if data.augment:
            _set(book, "data.picture_variants", data.augment.variants)
        if data.mask != "none":
            _set(book, "data.unmasked_weight", data.unmasked_weight)
        if data.mask == "alpha":
            _set(book, "data.alpha_mask", True)
        elif data.mask == "files":
            _set(book, "data.mask_path", _folder_of_masks(data))
        _set(book, "data.path", folder)
        if plan.are_weighted(data):
            book.todo.append("data.folders: some pictures count otherwise than others; name their folders")
        if len(data.items) > plan.samples(data):
            book.todo.append("data.more_resolutions: pictures were seen at several; the largest is carried")
        if of.outputs.trigger:
            _set(book, "data.trigger", of.outputs.trigger)
        return
    for place, file in enumerate(data.files):
        part = f"data.{place}"
        book.kinds[part] = SHAPES[file.shape]
        _set(book, f"{part}.path", f"{folder}/{file.path}")
        _set(book, f"{part}.weight", file.weight)
        _set(book, f"{part}.max_samples", file.max_samples or None)
        for column, name in file.columns.items():
            _set(book, f"{part}.{COLUMNS.get(column, column)}", name)
    for field in ("length", "packing", "held_out"):
        _set(book, f"sequences.{field}", getattr(data, field))
    if data.template:
        book.todo.append(
            "sequences.template: the plan has the template itself, not its name; the base's own stands"
        )


def _method(book: Ledger, adapter: plan.Adapter) -> None:
    """The class of the adapter, and the field that it alone has."""
    kind = METHODS[adapter.method]
    if kind is not LoRA:
        book.choose("adapter", kind)
    if kind is LoKr and adapter.factor > 0:
        _set(book, "adapter.factor", adapter.factor)


def _words(book: Ledger, of: plan.Plan) -> None:
    """The words that have vectors of their own, each with its rate where that is not the train's."""
    for place, word in enumerate(of.program.adapter.words):
        part = f"adapter.words.{place}"
        book.kinds[part] = TextualInversion
        for field in ("word", "vectors"):
            _set(book, f"{part}.{field}", getattr(word, field))
        if word.initial != plan.called(word):
            _set(book, f"{part}.initial", word.initial)
        if word.learning_rate != of.program.train.learning_rate:
            _set(book, f"{part}.learning_rate", word.learning_rate)


def _folder_of_masks(data: plan.Images) -> str | None:
    """The folder in which masks lie as the pictures do."""
    masked = next((item for item in data.items if item.mask), None)
    if masked is None:
        return None
    return masked.mask.rpartition(".")[0].removesuffix(masked.path.rpartition(".")[0]).rstrip("/")


def _optimizer(book: Ledger, optimizer: plan.Optimizer) -> None:
    kind = OPTIMIZERS[type(optimizer)]
    if kind is not AdamW:
        book.choose("train.optimizer", kind)
    for field in attrs.fields(kind):
        _set(book, f"train.optimizer.{field.name}", getattr(optimizer, field.name))


def _training(of: plan.Plan) -> dict[str, Any]:
    adapter, train, compute = of.program.adapter, of.program.train, of.program.compute
    optimizer = train.optimizer
    return {
        **{
            f"adapter.{field}": getattr(adapter, field)
            for field in (
                "rank",
                "alpha",
                "rslora",
                "dora",
                "init",
                "dropout",
                "rank_dropout",
                "module_dropout",
            )
        },
        "adapter.also_train": _whole(adapter),
        "adapter.ranks": {one.pattern: one.rank for one in adapter.ranks} or None,
        "adapter.alphas": {one.pattern: one.alpha for one in adapter.alphas} or None,
        **{
            f"train.{field}": getattr(train, field)
            for field in ("effective_batch", "steps", "learning_rate", "seed")
        },
        "train.text_encoder_learning_rate": train.text_encoder_learning_rate
        if len(adapter.targets) > 1
        else None,
        "train.max_grad_norm": train.max_grad_norm,
        "train.scheduler": train.schedule.name,
        "train.warmup_steps": train.schedule.warmup_steps,
        "train.power": train.schedule.power,
        "train.cycles": train.schedule.cycles if train.schedule.cycles > 1 else None,
        "train.decay_steps": train.schedule.decay_steps or None,
        "train.min_ratio": train.schedule.min_ratio or None,
        **_objective(train.objective),
        "train.lora_plus_ratio": train.lora_plus_ratio,
        "train.ema": train.ema or None,
        "fit.dtype": compute.dtype,
        "fit.quantization": compute.quantization,
        "fit.optimizer_bits": optimizer.state_bits,
        "fit.paged_optimizer": compute.paged_optimizer,
        "fit.deterministic": compute.deterministic,
        "fit.processes": train.processes,
    }


def _whole(adapter: plan.Adapter) -> tuple[str, ...] | None:
    """What is trained whole beside the adapter."""
    paths = [path for component in adapter.modules_to_save.values() for path in component]
    return words.also_train(paths) if paths else None


def _objective(objective: plan.Objective) -> dict[str, Any]:
    """What is on of the loss and the noise."""
    off = plan.Objective()
    same = (
        *("snr_gamma", "debiased", "noise_offset", "pyramid_iterations", "pyramid_discount"),
        *("input_perturbation", "neftune_alpha"),
    )
    told = {f"train.{field}": getattr(objective, field) for field in same}
    told["train.loss"] = objective.loss_type
    if objective.loss_type in plan.WITH_THRESHOLD:
        told |= {f"train.{field}": getattr(objective, field) for field in ("huber_schedule", "huber_c")}
    values = attrs.asdict(off)
    return {
        name: value for name, value in told.items() if value != values.get(name.removeprefix("train."), "l2")
    }


def _outputs(of: plan.Plan) -> dict[str, Any]:
    outputs = of.outputs
    plain = (
        "save_steps",
        "keep_checkpoints",
        "dtype",
        "preferred_weight",
        "description",
        "author",
        "license",
    )
    told = {
        f"outputs.{field}": getattr(outputs, field) or None
        for field in (*plain, "notes", "negative_text", "tags")
    }
    return {"name": outputs.name, **told}


def _samples(book: Ledger, of: plan.Plan) -> dict[str, Any]:
    samples = of.outputs.samples
    if not samples.prompts:
        return {}
    names = ["prompts", "seed"]
    if isinstance(samples, plan.Answers):
        book.kinds["samples"] = Answers
        names += ["system", "max_tokens", "temperature"]
    else:
        names += ["negative_prompt", "steps", "guidance", "width", "height", "weight"]
    return {f"samples.{field}": getattr(samples, field) for field in names} | {
        "samples.every": samples.every or None
    }
