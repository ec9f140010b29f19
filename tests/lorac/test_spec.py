"""The words of a spec: what they take, what they refuse, and with which words and line."""

# ruff: noqa: E501  (messages are asserted whole, each on its line)

from __future__ import annotations

import copy
import linecache
import pickle
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lorac
from lorac import AdamW, Auto, Base, Experiment, Fit, Images, LoRA, Outputs, Samples, Train
from lorac.agree import batch_choices, limits
from lorac.origin import Origin
from lorac.parts import where
from lorac.reference import reference
from lorac.rules import Rule
from runtime import plan
from runtime.errors import SpecError
from tests.lorac import strategies

FILE = "spec-under-test.py"
quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def made(cls: type, given: dict[str, Any]) -> Any:
    """A part built by a source with each keyword on a line of its own, the first on line 2."""
    source = f"part = cls(\n{''.join(f'    {name}=given[{name!r}],' + chr(10) for name in given)})\n"
    linecache.cache[FILE] = (len(source), None, source.splitlines(keepends=True), FILE)
    names = {"cls": cls, "given": given, "__name__": "a spec"}
    exec(compile(source, FILE, "exec"), names)  # noqa: S102
    return names["part"]


def needed(cls: type, but: str = "") -> dict[str, Any]:
    """The fields that a part must be given, with values that will do."""
    will_do: dict[str, Any] = {
        "name": "a",
        "base": "base",
        "data": Images("pictures"),
        "path": "path",
        "word": "a",
    }
    names = [field.name for field in attrs.fields(cls) if field.default is attrs.NOTHING]
    return {name: will_do[name] for name in names if name != but}


def refusal(build: typing.Callable[[], object]) -> list[str]:
    """What a person is told."""
    with pytest.raises(SpecError) as caught:
        build()
    return caught.value.lines()


# ------------------------------------------------------------------------------------------- the rules hold


@pytest.mark.parametrize(("part", "field"), strategies.FIELDS, ids=strategies.IDS)
def test_every_field_has_a_rule_a_meaning_and_a_default_that_the_rule_takes(
    part: type, field: attrs.Attribute[Any]
) -> None:
    assert isinstance(field.metadata["rule"], Rule)
    assert field.metadata["doc"].endswith(".")
    if field.default is not attrs.NOTHING and not isinstance(field.default, attrs.Factory):
        built = part(**{**needed(part), field.name: field.default})
        assert field.default == getattr(built, field.name)


@pytest.mark.parametrize(("part", "field"), strategies.FIELDS, ids=strategies.IDS)
@quick
@given(data=st.data())
def test_a_field_takes_what_its_rule_allows(
    part: type, field: attrs.Attribute[Any], data: st.DataObject
) -> None:
    if part is Experiment:
        built = data.draw(strategies.experiments())
    else:
        built = data.draw(strategies.parts(part, **{field.name: strategies.values(field.metadata["rule"])}))
    kept = getattr(built, field.name)
    assert hash(built) == hash(copy.copy(built))
    assert not isinstance(kept, list | Path)
    rule = field.metadata["rule"]
    if rule.type is float and kept is not None and not isinstance(kept, Auto):
        assert {type(one) for one in ([value for _, value in kept] if rule.keyed else [kept])} <= {float}


@pytest.mark.parametrize(("part", "field"), strategies.FIELDS, ids=strategies.IDS)
@quick
@given(data=st.data())
def test_a_field_refuses_what_its_rule_forbids_with_its_name_and_line(
    part: type, field: attrs.Attribute[Any], data: st.DataObject
) -> None:
    wrong = data.draw(strategies.wrong_values(field.metadata["rule"]))
    before = needed(part, but=field.name)
    with pytest.raises(SpecError) as caught:
        made(part, {**before, field.name: wrong})

    dotted = f"{part.PLACE}.{field.name}" if part.PLACE else field.name  # type: ignore[attr-defined]
    assert len(caught.value.problems) == 1
    problem = caught.value.problems[0]
    assert problem.where == f"{FILE}:{len(before) + 2}"
    assert problem.what.startswith((f"{dotted} ", f"{dotted}["))
    assert problem.hint
    assert len(str(problem)) < 400


@quick
@given(strategies.experiments())
def test_every_valid_experiment_can_be_made_and_its_batch_made_up(experiment: Experiment) -> None:
    pairs = batch_choices(experiment.fit, experiment.train.effective_batch)
    products = {micro * accumulation * experiment.fit.processes for micro, accumulation in pairs}
    assert products == {experiment.train.effective_batch}
    assert experiment == attrs.evolve(experiment)
    assert experiment == pickle.loads(pickle.dumps(experiment))  # noqa: S301


@quick
@given(
    effective=st.integers(1, 64),
    processes=st.integers(1, 4),
    micro=st.none() | st.integers(1, 16),
    accumulation=st.none() | st.integers(1, 16),
)
def test_a_pinned_batch_is_taken_exactly_if_some_product_is_the_effective_batch(
    effective: int, processes: int, micro: int | None, accumulation: int | None
) -> None:
    micros = [micro] if micro else range(1, effective + 1)
    accumulations = [accumulation] if accumulation else range(1, effective + 1)
    possible = any(m * a * processes == effective for m in micros for a in accumulations)
    fit = Fit(micro_batch=micro or Auto(), accumulation=accumulation or Auto(), processes=processes)

    def build() -> Experiment:
        return Experiment(
            name="a", base="b", data=Images("c"), fit=fit, train=Train(effective_batch=effective)
        )

    if possible:
        assert fit == build().fit
    else:
        assert "train.effective_batch" in refusal(build)[0]


# ------------------------------------------------------------------------------------------------ the words


def test_the_message_names_field_range_and_value() -> None:
    assert refusal(lambda: LoRA(rank=4096))[0].endswith(": adapter.rank must be between 1 and 1024, got 4096")


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda: LoRA(rank=True), "adapter.rank must be a whole number between 1 and 1024 or Auto(low, high), got True"),
        (lambda: LoRA(rank="8"), "adapter.rank must be a whole number between 1 and 1024 or Auto(low, high), got text '8'"),
        (lambda: LoRA(rank=Auto(4, 3000)), "adapter.rank is Auto, whose high must be between 1 and 1024, got 3000"),
        (lambda: LoRA(rank=Auto(4.5, 8)), "adapter.rank is Auto, whose low must be a whole number between 1 and 1024, got 4.5"),
        (lambda: LoRA(alpha=Auto(1, 2)), "adapter.alpha may be left open as Auto() alone: it has no bounds of its own"),
        (lambda: LoRA(dropout=Auto()), "adapter.dropout must be a number, at least 0 and less than 1, got an object of type Auto"),
        (lambda: Auto(4, 32, prefer=64), "Auto.prefer must be at most high, 32, got 64"),
        (lambda: Auto(True), "Auto.low must be a number or None, got True"),
        (lambda: Train(learning_rate=np.float32(0.5)), "train.learning_rate must be a number, more than 0 and at most 1, got numpy float32 0.5"),
        (lambda: Train(learning_rate=float("nan")), "train.learning_rate must be a finite number more than 0 and at most 1, got nan"),
        (lambda: Train(learning_rate=10**400), "train.learning_rate must be more than 0 and at most 1, got 1" + "0" * 58 + "…"),
        (lambda: Train(snr_gamma=0), "train.snr_gamma must be more than 0 and at most 100, got 0"),
        (lambda: Train(optimizer="adamw"), "train.optimizer must be an AdamW(…), an Adafactor(…), a Lion(…), a Prodigy(…) or a ScheduleFreeAdamW(…), got text 'adamw'"),
        (lambda: Train(optimizer=AdamW), "train.optimizer must be an AdamW(…), an Adafactor(…), a Lion(…), a Prodigy(…) or a ScheduleFreeAdamW(…), got a class, AdamW"),
        (lambda: Train(scheduler="cosin"), 'train.scheduler must be "cosine", "constant", "linear", "polynomial", "cosine_with_restarts", "warmup_stable_decay" or "rex", got text \'cosin\''),
        (lambda: Images(""), "data.path must not be empty"),
        (lambda: Images("x", resolution=500), "data.resolution must be a multiple of 8 between 64 and 2048, got 500"),
        (lambda: Images("x", prepend_trigger=True), "data.prepend_trigger is set, but data.trigger is empty"),
        (lambda: Fit(optimizer_bits=16), "fit.optimizer_bits must be 8 or 32, got 16"),
        (lambda: Fit(quantization=Auto(choices=("nf4", "int4"))), 'fit.quantization is Auto, whose choices must be "none", "nf4", "int8" or "fp8", got text \'int4\''),
        (lambda: Train(epochs=None), "train.epochs and train.steps are both None"),
        (lambda: Train(warmup_steps=5, warmup_ratio=0.1), "train.warmup_ratio and train.warmup_steps are both given: 0.1 and 5"),
        (lambda: Train(steps=10, warmup_steps=11), "train.warmup_steps must be at most train.steps 10, got 11"),
        (lambda: Samples(prompts="a cat"), "samples.prompts must be a tuple of texts, got text 'a cat'"),
        (lambda: LoRA(8), "LoRA takes nothing without a name, got 1 unnamed values"),
        (lambda: Images("x", "y"), "Images takes only path without a name, got 2 unnamed values"),
        (lambda: Images("x", path="y"), "data.path is given twice"),
        (lambda: Outputs(descripton="x"), "Outputs has no field `descripton`; did you mean `description`?"),
        (lambda: Experiment(name="CON", base="b", data=Images("x")), "name is the name of a device on Windows, got 'CON'"),
    ],
)  # fmt: skip
def test_each_kind_of_mistake_has_its_words(build: typing.Callable[[], object], told: str) -> None:
    first = refusal(build)[0]
    place, _, words = first.removeprefix("error: ").partition(": ")
    assert told == words
    assert place.startswith(__file__)


def test_all_problems_of_a_part_are_told_in_the_order_of_its_lines() -> None:
    told = {"dropout": 2.0, "rnak": 8, "alpha": 0, "targets": "qk", "rank": 0}
    with pytest.raises(SpecError) as caught:
        made(LoRA, told)

    assert [
        (f"{FILE}:2", "adapter.dropout must be at least 0 and less than 1, got 2.0"),
        (f"{FILE}:3", "LoRA has no field `rnak`; did you mean `rank`?"),
        (f"{FILE}:4", "adapter.alpha must be more than 0 and at most 65536, got 0"),
        (
            f"{FILE}:5",
            'adapter.targets must be "qkv", "qkvo", "qkvo+ff", "qkvo+ff+conv", "attention", "all-linear"'
            " or re:<regular expression over module names>, got text 'qk'",
        ),
        (f"{FILE}:6", "adapter.rank must be between 1 and 1024, got 0"),
    ] == [(problem.where, problem.what) for problem in caught.value.problems]


def test_one_wrong_field_hides_no_disagreement_of_others() -> None:
    with pytest.raises(SpecError) as caught:
        Train(learning_rate=2, epochs=1, steps=10, warmup_steps=20)

    assert [problem.what for problem in caught.value.problems] == [
        "train.learning_rate must be more than 0 and at most 1, got 2",
        "train.steps and train.epochs are both given: steps=10, epochs=1",
        "train.warmup_steps must be at most train.steps 10, got 20",
    ]


@pytest.mark.parametrize(
    ("fit", "told"),
    [
        (Fit(micro_batch=3, accumulation=2), "fit.micro_batch 3 * accumulation 2 * processes 1 is 6, not train.effective_batch 8"),
        (Fit(micro_batch=3), "fit.micro_batch 3 * processes 1 must divide train.effective_batch 8"),
        (Fit(accumulation=3), "fit.accumulation 3 * processes 1 must divide train.effective_batch 8"),
        (Fit(micro_batch=4, processes=4), "fit.micro_batch 4 * processes 4 must divide train.effective_batch 8"),
        (Fit(processes=3), "fit.processes must divide train.effective_batch 8, got 3"),
        (Fit(micro_batch=Auto(5, 7)), "fit.micro_batch Auto(5, 7) and accumulation Auto() with processes 1 cannot make up train.effective_batch 8"),
    ],
)  # fmt: skip
def test_a_batch_that_cannot_be_made_up_is_refused_with_all_its_numbers(fit: Fit, told: str) -> None:
    def build() -> Experiment:
        return Experiment(name="a", base="b", data=Images("c"), train=Train(effective_batch=8), fit=fit)

    assert refusal(build)[0].endswith(f": {told}")


# ------------------------------------------------------------------------------------------------ the lines


def test_a_wrong_element_is_told_with_its_own_line() -> None:
    source = 'Samples(\n  prompts=[\n    "a",\n    "b",\n    3,\n  ],\n)'
    linecache.cache[FILE] = (len(source), None, source.splitlines(keepends=True), FILE)
    with pytest.raises(SpecError) as caught:
        exec(compile(source, FILE, "exec"), {"Samples": Samples, "__name__": "a spec"})  # noqa: S102

    assert f"{FILE}:5: samples.prompts[2] must be one line of text, got 3" == str(caught.value.problems[0])


def test_the_line_is_the_one_that_was_written_through_evolve_mappings_and_unnamed_values() -> None:
    adapter = LoRA(rank=8)
    many = {"rank": 0}
    here = Path(__file__).name
    builds = [
        lambda: attrs.evolve(
            adapter,
            rank=0,
        ),
        lambda: LoRA(
            alpha=1,
            **many,
        ),
        lambda: Images(
            "",
            flip=True,
        ),
        lambda: Experiment(
            name="a",
            base="",
            data=Images("x"),
        ),
    ]
    lines = [
        build.__code__.co_firstlineno + {0: 2, 1: 2, 2: 1, 3: 2}[index] for index, build in enumerate(builds)
    ]
    found = [refusal(build)[0].split(f"{here}:")[1].split(":")[0] for build in builds]
    assert [str(line) for line in lines] == found


def test_a_part_knows_where_each_of_its_fields_was_written() -> None:
    experiment = made(Experiment, {"name": "a", "base": "b", "data": Images("x")})
    assert f"{FILE}:2" == where(experiment, "name")
    assert f"{FILE}:3" == where(experiment.base, "path")
    assert f"{FILE}:1" == where(experiment)
    assert where(experiment.train, "seed") == ""


def test_without_columns_in_the_bytecode_the_line_is_the_calls() -> None:
    code = (
        "from lorac import LoRA\nfrom runtime.errors import SpecError\n"
        "try:\n    LoRA(\n        rank=0)\nexcept SpecError as error:\n    print(error)"
    )
    ran = subprocess.run(
        [sys.executable, "-X", "no_debug_ranges", "-c", code], capture_output=True, text=True, check=True
    )
    assert ran.stdout == "<string>:4: adapter.rank must be between 1 and 1024, got 0\n"


def test_an_origin_whose_source_is_gone_keeps_its_line() -> None:
    assert Origin("no-such-file.py", 7, 9, 1).line_of("rank") == 7


# ----------------------------------------------------------------------------------------------- the fields


OLD_NAMES: list[tuple[str, str, Any]] = [
    ("train_data_dir", "data.path", "pictures"),
    ("metadata_path", "data.metadata_path", "captions/metadata.csv"),
    ("resolution", "data.resolution", 768),
    ("base_model", "base.path", "models/base.safetensors"),
    ("lora_rank", "adapter.rank", 8),
    ("lora_alpha", "adapter.alpha", 16.0),
    ("lora_dropout", "adapter.dropout", 0.1),
    ("init_lora_weights", "adapter.init", "gaussian"),
    ("target_modules", "adapter.targets", r"re:.*attn2\.to_[kv]"),
    ("batch_size", "fit.micro_batch", 2),
    ("gradient_accumulation_steps", "fit.accumulation", 2),
    ("gradient_checkpointing", "fit.gradient_checkpointing", True),
    ("epochs", "train.epochs", 20),
    ("steps", "train.steps", 1500),
    ("learning_rate", "train.learning_rate", 2e-4),
    ("scheduler", "train.scheduler", "cosine"),
    ("lr_warmup_steps", "train.warmup_steps", 100),
    ("lr_power", "train.power", 2.0),
    ("optimizer", "train.optimizer", AdamW(beta2=0.99)),
    ("weight_decay", "train.optimizer.weight_decay", 0.1),
    ("max_grad_norm", "train.max_grad_norm", 0.5),
    ("seed", "train.seed", 42),
    ("output_dir", "outputs.output_dir", "results"),
    ("log_dir", "outputs.log_dir", "runs"),
    ("save_steps", "outputs.save_steps", 250),
]
"""What a peer's YAML says, the field that says it here, and a value."""


@pytest.mark.parametrize(("old", "path", "value"), OLD_NAMES, ids=[old for old, *_ in OLD_NAMES])
def test_what_other_trainers_files_say_can_be_said(old: str, path: str, value: Any) -> None:
    assert path in {row.field for row in reference()}
    holders: dict[str, type] = {
        "base": Base, "data": Images, "adapter": LoRA, "train": Train, "fit": Fit, "outputs": Outputs,
        "train.optimizer": AdamW,
    }  # fmt: skip
    holder, _, field = path.rpartition(".")
    part = holders[holder](**{**needed(holders[holder]), field: value})
    assert value == getattr(part, field)


@pytest.mark.parametrize("scheduler", ["constant", "linear", "cosine", "polynomial"])
def test_every_schedule_of_the_plan_can_be_said(scheduler: str) -> None:
    names = typing.get_args(typing.get_type_hints(plan.Schedule)["name"])
    assert scheduler in names
    assert set(names) == set(attrs.fields_dict(Train)["scheduler"].metadata["rule"].choices)


@pytest.mark.parametrize(
    ("part", "field", "target"),
    [
        (LoRA, "init", (plan.Adapter, "init")),
        (Base, "prediction_type", (plan.Base, "prediction_type")),
        (Fit, "dtype", (plan.Compute, "dtype")),
        (Fit, "quantization", (plan.Compute, "quantization")),
        (Fit, "optimizer_bits", (plan.AdamW, "state_bits")),
        (Outputs, "dtype", (plan.Outputs, "dtype")),
    ],
)
def test_the_words_of_a_spec_are_the_plans_words(part: type, field: str, target: tuple[type, str]) -> None:
    words = typing.get_args(typing.get_type_hints(target[0])[target[1]])
    unsaid = {"next_token", "flow"}  # what a whole kind of model predicts: nobody has to say it
    assert set(words) - unsaid == set(attrs.fields_dict(part)[field].metadata["rule"].choices)


def test_the_place_that_errors_say_is_the_place_in_the_experiment() -> None:
    places = {(cls.PLACE, cls) for cls in strategies.PARTS if cls.PLACE}  # type: ignore[attr-defined]
    walked: set[tuple[str, type]] = set()

    def walk(cls: type, dotted: str) -> None:
        for field in attrs.fields(cls):
            rule = field.metadata["rule"]
            for inner in filter(attrs.has, (rule.type, *rule.others)):
                walked.add((f"{dotted}{field.name}", inner))
                walk(inner, f"{dotted}{field.name}.")

    walk(Experiment, "")
    assert walked == places


def test_neither_epochs_nor_steps_is_ten_epochs() -> None:
    assert (Train().epochs, Train().steps) == (10, None)
    assert (Train(steps=5).epochs, Train(steps=5).steps) == (None, 5)


def test_an_open_field_has_its_defaults_bounds_or_the_fields_own() -> None:
    assert Auto(4, 32, prefer=16) == LoRA(rank=Auto()).rank
    assert Auto(8, 1024) == LoRA(rank=Auto(8)).rank
    assert limits(LoRA(), "rank") == (4, 32)
    assert limits(LoRA(rank=8), "rank") == (8, 8)
    assert limits(Fit(), "micro_batch") == (1, 4096)


def test_a_part_cannot_be_changed_and_keeps_no_list() -> None:
    prompts = ["a"]
    samples = Samples(prompts=prompts)  # type: ignore[arg-type]
    prompts.append("b")
    assert samples.prompts == ("a",)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        samples.steps = 3  # type: ignore[misc]


def test_an_int_for_a_float_field_makes_the_same_spec_as_the_float() -> None:
    assert LoRA(alpha=16) == LoRA(alpha=16.0)
    assert repr(LoRA(alpha=16)) == repr(LoRA(alpha=16.0))


def test_the_reference_has_a_row_for_every_field_with_its_range() -> None:
    rows = {row.field: row for row in reference()}
    assert len(strategies.FIELDS) == len(rows)
    rank = rows["adapter.rank"]
    assert (rank.part, rank.takes) == ("LoRA", "a whole number between 1 and 1024 or Auto(low, high)")
    assert rank.default == "Auto(4, 32, prefer=16)"
    assert rows["train.epochs"].default == "10 where steps is not given"
    assert rows["train.snr_gamma"].default == "None (off)"
    assert rows["data"].default == "required"
    assert rows["data.resolution"].unit == "px"


def test_the_words_are_importable_without_torch() -> None:
    code = "import sys, lorac, lorac.load, lorac.reference; print([m for m in ('torch', 'numpy', 'PIL') if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
    assert set(lorac.__all__) == {cls.__name__ for cls in (*strategies.PARTS, Auto)}
