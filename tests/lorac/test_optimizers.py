"""An optimizer from its word in a spec over the plan and a LoRA's header back to a spec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest

from lorac import (
    Adafactor,
    AdamW,
    Auto,
    Experiment,
    Fit,
    Instructions,
    Lion,
    LoRA,
    Prodigy,
    ScheduleFreeAdamW,
    Sequences,
    Train,
    relief,
    render,
)
from lorac.compile import compile_experiment
from lorac.diff import differences
from lorac.importers import importer, planned
from lorac.importers.ledger import Ledger, experiment
from lorac.resolve_optimizers import OPTIMIZERS, optimizer_of
from runtime import plan
from runtime.errors import SpecError
from runtime.export import metadata
from runtime.safeio.safetensors import Header
from runtime.safeio.tensors import TensorInfo
from tests.lorac.plans import PROGRAM, a_plan

EVERY = [
    AdamW(beta1=0.8, weight_decay=0.1),
    Adafactor(beta1=0.5, scale_parameter=True, decay_power=0.7),
    Lion(beta2=0.98),
    Prodigy(d_coef=2.0, growth_rate=1.02, bias_correction=True),
    ScheduleFreeAdamW(beta2=0.99),
]
each = pytest.mark.parametrize("one", EVERY, ids=lambda one: type(one).__name__)


def with_optimizer(one: Any) -> plan.Plan:
    """A plan of pictures with this optimizer, at its own rate."""
    train = Train(optimizer=one)
    changed = attrs.evolve(
        PROGRAM.train,
        optimizer=optimizer_of(one, 32),
        learning_rate=train.learning_rate,
        schedule=attrs.evolve(PROGRAM.train.schedule, name=train.scheduler),
    )
    return a_plan(program=attrs.evolve(PROGRAM, train=changed))


# ---------------------------------------------------------------------------------------------------------- the words


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"optimizer": Prodigy(), "learning_rate": 1e-4},
            "train.learning_rate is 0.0001, and with Prodigy it only scales the rate that Prodigy finds",
        ),
        (
            {"optimizer": Prodigy(), "text_encoder_learning_rate": 0.5},
            "train.text_encoder_learning_rate is another than train.learning_rate",
        ),
        (
            {"optimizer": Prodigy(), "lora_plus_ratio": 16.0},
            "train.lora_plus_ratio gives B a rate of its own",
        ),
        ({"optimizer": ScheduleFreeAdamW(), "scheduler": "cosine"}, "train.scheduler is 'cosine'"),
        ({"optimizer": ScheduleFreeAdamW(), "ema": 0.99}, "train.ema is set, and ScheduleFreeAdamW averages"),
    ],
)
def test_what_an_optimizer_cannot_have_is_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(SpecError) as refused:
        Train(**given)
    assert [problem.what.startswith(told) for problem in refused.value.problems] == [True]


@pytest.mark.parametrize("bits", [8, Auto(choices=(8,))])
def test_moments_in_8_bits_are_adamws(bits: Any) -> None:
    def made(optimizer: Any) -> Experiment:
        return Experiment(
            name="a",
            base="b",
            data=Instructions("c"),
            train=Train(optimizer=optimizer),
            fit=Fit(optimizer_bits=bits),
        )

    assert made(AdamW()).fit.optimizer_bits == bits
    with pytest.raises(SpecError, match=r"fit\.optimizer_bits is 8, and Lion keeps its state in 32 bits"):
        made(Lion())


def test_rate_and_schedule_are_the_optimizers_where_nothing_is_said() -> None:
    found = {
        type(one).__name__: (t.learning_rate, t.scheduler) for one in EVERY for t in [Train(optimizer=one)]
    }
    assert found == {
        "AdamW": (1e-4, "cosine"),
        "Adafactor": (1e-4, "cosine"),
        "Lion": (2e-5, "cosine"),
        "Prodigy": (1.0, "cosine"),
        "ScheduleFreeAdamW": (2.5e-4, "constant"),
    }


def test_each_word_has_a_part_of_the_plan_with_the_same_fields() -> None:
    assert list(OPTIMIZERS) == [type(one) for one in EVERY]
    for word, part in OPTIMIZERS.items():
        fields = {field.name for field in attrs.fields(part)} - {"name", "state_bits"}
        assert fields == {field.name for field in attrs.fields(word)}


# ----------------------------------------------------------------------------------------------------------- the plan


@each
def test_the_plan_comes_back_from_its_json(one: Any) -> None:
    made = with_optimizer(one)
    assert plan.loads(plan.dumps(made)) == made


def test_a_plan_says_what_differs_between_two_optimizers() -> None:
    changes = differences(with_optimizer(AdamW()), with_optimizer(Lion()))
    text = render.changes_text(changes, 100)
    assert "program.train.optimizer.name: adamw -> lion" in text
    assert "program.train.optimizer.eps: 1e-08 -> (none)" in text
    assert text.endswith("the trained bytes differ")


def test_8_bits_are_no_way_out_but_for_adamw() -> None:
    offered = {
        type(one).__name__: [said for said, _ in relief.fewer_bits(with_optimizer(one).program)]
        for one in EVERY
    }
    assert [name for name, said in offered.items() if "fit.optimizer_bits 8" in said] == ["AdamW"]


def test_a_compiled_plan_shows_the_optimizer_its_average_and_where_its_state_waits(
    tiny_lm: Path, tiny_text: Path, tmp_path: Path
) -> None:
    def compiled(paged: bool) -> plan.Plan:
        one = Experiment(
            name="tiny",
            base=str(tiny_lm),
            data=Instructions(str(tiny_text)),
            sequences=Sequences(length=64),
            adapter=LoRA(rank=8),
            train=Train(optimizer=Prodigy(), steps=4, ema=0.99),
            fit=Fit(micro_batch=4, paged_optimizer=paged, optimizer_bits=Auto(), offload="none"),
        )
        return compile_experiment(one, tmp_path, tmp_path, "12GB", False)

    made, plain = compiled(True), compiled(False)
    assert {(d.field, d.value, d.reason) for d in made.estimate.decisions} >= {
        ("optimizer", "Prodigy", "learning rate 1, cosine"),
        ("weights averaged", "decay 0.99", "samples, held-out losses and the LoRA are the average's"),
        ("optimizer state", "paged", "in the computer's memory between steps, as the spec says"),
    }
    assert "pytorch-optimizer" in made.program.versions
    assert made.program.train.optimizer.state_bits == 32
    assert made.estimate.peak_bytes <= plain.estimate.peak_bytes
    assert made.estimate.host_bytes > plain.estimate.host_bytes
    assert made.estimate.disk_bytes == plain.estimate.disk_bytes
    assert made.estimate.seconds_per_step > plain.estimate.seconds_per_step
    assert made.estimate.by_kind["averaged weights"] == plain.estimate.by_kind["averaged weights"] > 0


# --------------------------------------------------------------------------------------------------------- and back


@each
def test_a_plan_s_optimizer_is_that_of_the_spec_imported_from_it(one: Any) -> None:
    book = Ledger({})
    planned.settle(book, with_optimizer(one))
    draft = book.draft()
    values = {field: setting.value for field, setting in draft.settings.items()}
    made = experiment({**values, "base.path": "b", "data.path": "c"}, draft.kinds)
    assert made.train.optimizer == one
    assert made.train.learning_rate == Train(optimizer=one).learning_rate


@each
def test_a_lora_s_header_names_the_optimizer_as_kohya_does_and_it_is_read_back(one: Any) -> None:
    said = metadata.training(with_optimizer(one), "cats", 700)
    down = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight"
    draft = importer("lora").convert(Header({down: TensorInfo("F32", (16, 4), 0)}, said, 0), {})
    values = {field: setting.value for field, setting in draft.settings.items()}
    made = experiment({**values, "base.path": "b", "data.path": "c", "name": "a"}, draft.kinds)
    assert made.train.optimizer == one
