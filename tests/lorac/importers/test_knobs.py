"""Curves, epochs, the layer that is read, rows at most: carried over as each trainer means them."""

from __future__ import annotations

from typing import Any

import pytest

from lorac import Instructions
from lorac.importers import importer
from lorac.importers.ledger import Draft
from tests.lorac.importers.test_trainers import left, made

KOHYA = """
network_module = "networks.lora"
pretrained_model_name_or_path = "a"
train_data_dir = "b"
max_train_epochs = 8
"""


@pytest.fixture
def kohya(read: Any) -> Any:
    """A draft of sd-scripts' TOML with these lines more."""

    def converted(more: str) -> Draft:
        draft: Draft = importer("kohya").convert(read(KOHYA + more), {})
        return draft

    return converted


@pytest.mark.parametrize(("said", "ours"), [("1", 1), ("2", 2), ("0", 1)])
def test_kohyas_clip_skip_counts_as_ours(kohya: Any, said: str, ours: int) -> None:
    draft = kohya(f"clip_skip = {said}")

    assert made(draft).base.clip_skip == ours and not left(draft)


def test_what_kohyas_clip_skip_does_to_another_family_is_told(kohya: Any, convert: Any) -> None:
    xl = convert("kohya-gui", **{'"sdxl": false, "clip_skip": "1"': '"sdxl": true, "clip_skip": "2"'})

    assert left(kohya("clip_skip = 2\nv2 = true"))["clip_skip"].startswith("which layer Stable Diffusion 2")
    assert made(xl).base.clip_skip == 1 and "clip_skip" not in left(xl)


def test_onetrainer_counts_the_layers_that_are_left_out(convert: Any) -> None:
    skipped = {'"batch_size": 4': '"batch_size": 4, "text_encoder_layer_skip": 1'}
    xl = {'"STABLE_DIFFUSION_15"': '"STABLE_DIFFUSION_XL_10_BASE"'}

    assert made(convert("onetrainer", **skipped)).base.clip_skip == 2
    assert left(convert("onetrainer", **skipped, **xl))["text_encoder_layer_skip"] == (
        "which layer a Stable Diffusion XL reads is fixed in lorac"
    )


@pytest.mark.parametrize(
    ("lines", "numbers"),
    [
        (
            'lr_scheduler = "cosine_with_restarts"\nlr_scheduler_num_cycles = 3',
            {"scheduler": "cosine_with_restarts", "cycles": 3},
        ),
        ('lr_scheduler = "cosine"\nlr_scheduler_num_cycles = 3', {"scheduler": "cosine", "cycles": 1}),
        (
            'lr_scheduler = "warmup_stable_decay"\nlr_decay_steps = 0.2\nlr_scheduler_min_lr_ratio = 0.1',
            {"scheduler": "warmup_stable_decay", "decay_ratio": 0.2, "min_ratio": 0.1},
        ),
        (
            'lr_scheduler = "warmup_stable_decay"\nlr_decay_steps = 100',
            {"scheduler": "warmup_stable_decay", "decay_steps": 100},
        ),
        (
            'lr_scheduler = "cosine_with_min_lr"\nlr_scheduler_min_lr_ratio = 0.1\nlr_scheduler_num_cycles = 1',
            {"scheduler": "cosine", "min_ratio": 0.1},
        ),
    ],
)
def test_kohyas_curves_come_with_the_numbers_that_it_reads(
    kohya: Any, lines: str, numbers: dict[str, Any]
) -> None:
    draft = kohya(lines)
    train = made(draft).train

    assert {field: getattr(train, field) for field in numbers} == numbers
    assert not left(draft)


def test_a_curve_that_never_falls_is_no_curve_of_ours(kohya: Any) -> None:
    draft = kohya('lr_scheduler = "warmup_stable_decay"')

    assert "nothing says when it falls" in left(draft)["lr_scheduler"]


@pytest.mark.parametrize("trainer", ["llama-factory", "axolotl"])
@pytest.mark.parametrize(
    ("name", "arguments", "numbers"),
    [
        ("cosine_with_restarts", "{num_cycles: 4}", {"scheduler": "cosine_with_restarts", "cycles": 4}),
        ("cosine_with_min_lr", "{min_lr_rate: 0.1}", {"scheduler": "cosine", "min_ratio": 0.1}),
        ("polynomial", "{power: 2.0}", {"scheduler": "polynomial", "power": 2.0}),
        (
            "warmup_stable_decay",
            "{num_decay_steps: 20, min_lr_ratio: 0.05}",
            {"scheduler": "warmup_stable_decay", "decay_steps": 20, "min_ratio": 0.05},
        ),
    ],
)
def test_transformers_arguments_of_a_curve_are_carried(
    convert: Any, trainer: str, name: str, arguments: str, numbers: dict[str, Any]
) -> None:
    key = {"llama-factory": "lr_scheduler_type", "axolotl": "lr_scheduler"}[trainer]
    draft = convert(trainer, **{f"{key}: cosine": f"{key}: {name}\nlr_scheduler_kwargs: {arguments}"})
    train = made(draft).train

    assert {field: getattr(train, field) for field in numbers} == numbers
    assert not [key for key in left(draft) if "scheduler" in key]


def test_a_least_rate_is_carried_as_a_share(convert: Any) -> None:
    lines = "lr_scheduler_type: cosine_with_min_lr\nlr_scheduler_kwargs: {min_lr: 2.0e-5, timescale: 3}"
    draft = convert("llama-factory", **{"lr_scheduler_type: cosine": lines})

    assert made(draft).train.min_ratio == pytest.approx(0.2)
    assert left(draft)["lr_scheduler_kwargs.timescale"] == "its curve has no such number in lorac"


def test_axolotls_rex_and_its_floor_are_ours(convert: Any) -> None:
    draft = convert("axolotl", **{"lr_scheduler: cosine": "lr_scheduler: rex\ncosine_min_lr_ratio: 0.1"})

    assert (made(draft).train.scheduler, made(draft).train.min_ratio) == ("rex", 0.1)


@pytest.mark.parametrize(
    ("said", "numbers"),
    [
        ("REX", {"scheduler": "rex", "cycles": 1, "min_ratio": 0.1}),
        (
            "COSINE_WITH_HARD_RESTARTS",
            {"scheduler": "cosine_with_restarts", "cycles": 3, "min_ratio": 0.1},
        ),
        ("CONSTANT", {"scheduler": "constant", "cycles": 1, "min_ratio": 0.0}),
    ],
)
def test_onetrainers_curves_come_with_their_numbers(convert: Any, said: str, numbers: dict[str, Any]) -> None:
    more = f'"learning_rate_scheduler": "{said}", "learning_rate_cycles": 3, "learning_rate_min_factor": 0.1'
    draft = convert("onetrainer", **{'"batch_size": 4': f'"batch_size": 4, {more}'})
    train = made(draft).train

    assert {field: getattr(train, field) for field in numbers} == numbers
    assert not [key for key in left(draft) if key.startswith("learning_rate")]


@pytest.mark.parametrize(
    ("trainer", "old", "new"),
    [
        (
            "onetrainer",
            '"batch_size": 4',
            '"batch_size": 4, "learning_rate_scheduler": "COSINE_WITH_RESTARTS"',
        ),
        ("simpletuner", '"polynomial"', '"cosine_with_restarts"'),
    ],
)
def test_restarts_that_are_others_are_left(convert: Any, trainer: str, old: str, new: str) -> None:
    draft = convert(trainer, **{old: new})

    assert "train.scheduler" not in draft.settings
    assert [key for key in left(draft) if "scheduler" in key]


def test_ai_toolkits_restarts_are_none_unless_it_says_when_they_come(convert: Any) -> None:
    plain = convert(
        "ai-toolkit", **{"steps: 2000": "steps: 2000\n        lr_scheduler: cosine_with_restarts"}
    )
    lines = "steps: 2000\n        lr_scheduler: cosine_with_restarts\n        lr_scheduler_params: {T_0: 500}"
    said = convert("ai-toolkit", **{"steps: 2000": lines})

    assert made(plain).train.scheduler == "cosine"
    assert "train.scheduler" not in said.settings
    assert {"train.lr_scheduler", "train.lr_scheduler_params.T_0"} <= set(left(said))


def test_kohyas_epochs_are_carried_where_there_is_something_to_draw(convert: Any, kohya: Any) -> None:
    more = '"save_every_n_epochs": 1, "save_last_n_epochs": 3, "sample_every_n_epochs": 2, "sample_every_n_steps": 10'
    form = made(convert("kohya-gui", **{'"epoch": 4': f'"epoch": 4, {more}'}))
    file = kohya("save_every_n_epochs = 2\nsample_every_n_epochs = 1")

    assert (form.outputs.save_epochs, form.outputs.keep_checkpoints) == (1, 3)
    assert form.samples.every_epochs == 2
    assert (made(file).train.epochs, made(file).outputs.save_epochs) == (8, 2)
    assert left(file)["sample_every_n_epochs"] == "samples.every_epochs is set, but samples.prompts is empty"


def test_onetrainers_units_of_time_are_carried(convert: Any) -> None:
    epochs = '"save_every": 2, "save_every_unit": "EPOCH", "sample_after": 1, "sample_after_unit": "EPOCH"'
    minutes = '"save_every": 2, "save_every_unit": "HOUR", "sample_after": 10, "sample_after_unit": "MINUTE"'
    first = made(convert("onetrainer", **{'"epochs": 20': f'"epochs": 20, {epochs}'}))
    second = convert("onetrainer", **{'"epochs": 20': f'"epochs": 20, {minutes}'})

    assert (first.outputs.save_epochs, first.samples.every_epochs) == (2, 1)
    assert made(second).outputs.save_epochs == 0
    assert {"save_every", "save_every_unit", "sample_after", "sample_after_unit"} <= set(left(second))


@pytest.mark.parametrize(
    ("trainer", "after", "line", "epochs", "steps"),
    [
        ("axolotl", "lora_r: 32", "saves_per_epoch: 4", 0.25, 0),
        ("axolotl", "lora_r: 32", "saves_per_epoch: 1", 1, 0),
        ("axolotl", "lora_r: 32", "", 1, 0),
        ("axolotl", "lora_r: 32", "save_strategy: 'no'", 0, 0),
        ("axolotl", "lora_r: 32", "save_steps: 50", 0, 50),
        ("llama-factory", "lora_rank: 8", "save_strategy: epoch\nsave_steps: 20", 1, 0),
        ("llama-factory", "lora_rank: 8", "", 0, 500),
    ],
)
def test_savings_of_transformers_trainers_are_carried(
    convert: Any, trainer: str, after: str, line: str, epochs: float, steps: int
) -> None:
    draft = convert(trainer, **{after: f"{after}\n{line}"})
    outputs = made(draft).outputs

    assert (outputs.save_epochs, outputs.save_steps) == (epochs, steps)
    assert not [key for key in left(draft) if key.startswith("save")]


def test_max_samples_are_the_first_rows_of_every_file(convert: Any) -> None:
    draft = convert("llama-factory", **{"lora_rank: 8": "lora_rank: 8\nmax_samples: 1000"})
    one = made(draft)

    assert isinstance(one.data, tuple)
    assert [part.max_samples for part in one.data] == [1000, 1000]  # type: ignore[attr-defined]
    assert isinstance(one.data[0], Instructions) and "max_samples" not in left(draft)


def test_max_samples_of_files_that_are_not_known_are_told(convert: Any) -> None:
    draft = convert(
        "llama-factory", **{"lora_rank: 8": "lora_rank: 8\nmax_samples: 1000", "identity,chats": "nowhere"}
    )

    assert "max_samples" in left(draft)


def test_axolotls_patience_is_ours(convert: Any) -> None:
    draft = convert("axolotl", **{"lora_r: 32": "lora_r: 32\nearly_stopping_patience: 3"})

    assert made(draft).evaluation.patience == 3


def test_kohyas_held_out_pictures_and_dropped_ranks_are_carried(kohya: Any) -> None:
    draft = kohya(
        "validation_split = 0.1\nvalidate_every_n_epochs = 1\n"
        'network_args = ["rank_dropout=0.1", "module_dropout=0.2"]'
    )
    one = made(draft)

    assert one.data.held_out == 0.1  # type: ignore[union-attr]
    assert (one.adapter.rank_dropout, one.adapter.module_dropout) == (0.1, 0.2)  # type: ignore[union-attr]
    assert not left(draft)
