"""Values of a sweep: by dotted fields, refused by the spec's own rules with the option named."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorac.changes import Variant, changed, parse, variants
from lorac.load import Loaded, load
from runtime.errors import SpecError

SPEC = """
from lorac import Experiment, Images, LoRA, Train
experiment = Experiment(name="cat", base="base", data=Images("data"), train=Train(epochs=3))
"""


@pytest.fixture
def loaded(tmp_path: Path) -> list[Loaded]:
    path = tmp_path / "cat.py"
    path.write_text(SPEC)
    return load(path)


def made(loaded: list[Loaded], *words: str) -> list[Variant]:
    return variants(loaded, [parse(one) for one in words])


def problems(loaded: list[Loaded], *words: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        made(loaded, *words)
    return [str(problem) for problem in caught.value.problems]


def test_several_fields_make_their_product_each_named_after_its_values(loaded: list[Loaded]) -> None:
    found = made(loaded, "train.learning_rate=1e-4,2e-4", "train.scheduler=cosine,linear")
    assert [one.loaded.experiment.name for one in found] == [
        "cat-learning_rate-0.0001-scheduler-cosine",
        "cat-learning_rate-0.0001-scheduler-linear",
        "cat-learning_rate-0.0002-scheduler-cosine",
        "cat-learning_rate-0.0002-scheduler-linear",
    ]
    assert found[3].settings == {"train.learning_rate": 2e-4, "train.scheduler": "linear"}
    assert found[3].loaded.experiment.train.learning_rate == 2e-4


def test_nothing_set_leaves_the_experiments_as_they_are(loaded: list[Loaded]) -> None:
    assert [one.loaded for one in made(loaded)] == loaded


def test_steps_take_the_place_of_epochs(loaded: list[Loaded]) -> None:
    train = made(loaded, "train.steps=5")[0].loaded.experiment.train
    assert (train.steps, train.epochs) == (5, None)


def test_errors_still_know_where_the_part_was_written(loaded: list[Loaded]) -> None:
    before, after = loaded[0].experiment.train, changed(loaded[0].experiment, {"train.steps": 5}).train
    assert vars(after)["_origin"] == vars(before)["_origin"]


def test_a_long_name_is_cut_and_stays_its_own(loaded: list[Loaded]) -> None:
    words = ["data.trigger=" + "a" * 80 + "x," + "a" * 80 + "y"]
    names = [one.loaded.experiment.name for one in made(loaded, *words)]
    assert max(map(len, names)) == 64
    assert len(set(names)) == 2


def test_a_value_out_of_range_is_told_with_its_option(loaded: list[Loaded]) -> None:
    assert problems(loaded, "adapter.rank=8,4096", "train.steps=0") == [
        "--set train.steps=0: train.steps must be between 1 and 10000000, got 0",
        "--set adapter.rank=4096: adapter.rank must be between 1 and 1024, got 4096",
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("train.learning_rat=1",),
            "--set train.learning_rat: Train has no field `learning_rat`; did you mean `learning_rate`?",
        ),
        (("trian.steps=1",), "--set trian.steps: there is no part 'trian'"),
        (("train=1",), "--set train: is a part: set one of its fields"),
        (("name=a,b",), "--set name: cannot be set: each run is named after its values"),
        (("train.steps=1", "train.steps=2"), "--set train.steps: is given twice"),
        (
            ("train.seed=" + ",".join(map(str, range(65))),),
            "--set: makes 65 runs, and a sweep has at most 64",
        ),
    ],
)
def test_what_cannot_be_set_is_said(loaded: list[Loaded], words: tuple[str, ...], said: str) -> None:
    assert problems(loaded, *words) == [said]


@pytest.mark.parametrize("words", ["train.steps", "=1", "train.steps="])
def test_an_option_that_names_no_value_is_refused(words: str) -> None:
    with pytest.raises(SpecError, match="FIELD=VALUE"):
        parse(words)
