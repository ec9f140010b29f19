"""Advice from runs made by hand: each fault is found by its figure, with its change; a sound run is called healthy."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import attrs
import pytest
from PIL import Image

from lorac.advice import advise, evidence
from lorac.advice.advise import Advice
from lorac.advice.looked import Looked
from lorac.load import load
from runtime import plan
from runtime.evaluation import results
from runtime.sheet import sheet
from tests.lorac.calling import call
from tests.lorac.runs import made_plan, write_run

STEPS = 40


def falling(seed: int = 0) -> list[float]:
    """Losses as a run has them that goes well."""
    noise = random.Random(seed)
    return [0.2 - 0.001 * step + noise.uniform(-0.02, 0.02) for step in range(STEPS)]


def found(advice: Advice) -> dict[str, Looked]:
    return {one.finding: one for one in advice.findings}


def advised(of: plan.Plan, losses: list[float] | None = None, **files: Any) -> Advice:
    """The advice to a run of the plan; `files` as for `write_run`."""
    return advise.advise(write_run(of, losses or falling(), **files))


def with_captions(of: plan.Plan, captions: list[str]) -> plan.Plan:
    """The plan with a picture for each caption."""
    data = of.program.data
    assert isinstance(data, plan.Images)
    items = tuple(
        attrs.evolve(data.items[0], caption=caption, path=f"{number}.png")
        for number, caption in enumerate(captions)
    )
    program = attrs.evolve(of.program, data=attrs.evolve(data, items=items))
    return plan.make(program, of.outputs, of.estimate)


def moved(advice: Advice) -> dict[str, tuple[Any, Any]]:
    return {field: (move.old, move.new) for field, move in advice.moves.items()}


def test_a_sound_run_is_healthy_and_says_what_could_not_be_looked_at(tmp_path: Path) -> None:
    advice = advised(made_plan(tmp_path))
    assert advice.findings == []
    said = advise.text(advice)
    assert said.startswith("cat is healthy: nothing found in ")
    assert "ok       loss from first to last quarter: 0." in said
    assert "unknown  copies of training pictures: not measured: lorac eval does" in said


def test_nothing_is_said_of_pictures_where_a_run_learned_text_nor_of_answers_where_pictures(
    tmp_path: Path,
) -> None:
    pictures = made_plan(tmp_path)
    assert "answers beside the base's" not in about(advised(pictures))
    file = plan.TextFile(
        path="a.jsonl", sha256="0" * 64, shape="alpaca", columns={}, weight=1.0, samples=9, trained=9
    )
    texts = plan.Texts(
        digest="0" * 64, files=(file,), expected=9, length=64, packing=False, template="", held_out=0.0
    )
    outputs = attrs.evolve(
        pictures.outputs,
        samples=plan.Answers(prompts=(), system="", seed=0, max_tokens=8, temperature=0.0, every=0),
    )
    text = advised(plan.make(attrs.evolve(pictures.program, data=texts), outputs, pictures.estimate))
    assert "answers beside the base's" in about(text)
    assert {"captions", "copies of training pictures", "times that each picture is seen"}.isdisjoint(
        about(text)
    )


def about(advice: Advice) -> set[str]:
    return {one.about for one in advice.looked}


def test_a_loss_that_rises_wants_a_lower_rate(tmp_path: Path) -> None:
    advice = advised(made_plan(tmp_path), falling()[::-1])
    assert list(found(advice)) == ["the loss rises"]
    assert moved(advice) == {"train.learning_rate": (1e-4, 3e-5)}


def test_a_loss_that_jumps_is_found_and_a_single_jump_is_not(tmp_path: Path) -> None:
    losses = falling()
    losses[20] = 5.0
    assert advised(made_plan(tmp_path, "one"), losses).findings == []
    losses[12] = losses[27] = 5.0
    assert "the loss jumps" in found(advised(made_plan(tmp_path, "three"), losses))


@pytest.mark.parametrize(
    ("clip", "move"),
    [(1.0, {"train.learning_rate": (1e-4, 3e-5)}), (0.0, {"train.max_grad_norm": (0.0, 1.0)})],
)
def test_gradients_that_grow_want_a_lower_rate_or_to_be_clipped(
    tmp_path: Path, clip: float, move: dict[str, Any]
) -> None:
    norms = [0.01 * 1.1**step for step in range(STEPS)]
    advice = advised(made_plan(tmp_path, max_grad_norm=clip), grad_norms=norms)
    assert list(found(advice)) == ["the gradients grow"]
    assert moved(advice) == move


def test_a_run_that_diverged_is_unstable_before_all_else(tmp_path: Path) -> None:
    folder = write_run(made_plan(tmp_path), falling()[:25], is_done=False)
    advice = advise.advise(folder, has_diverged=True)
    assert advice.findings[0].finding == "the training diverged"
    assert advise.text(advice).startswith("cat is not finished: step 25 of 40.")


def test_a_held_out_loss_that_rises_wants_the_steps_of_its_least(tmp_path: Path) -> None:
    rising = [(0, 0.5, 0.49, 0.51), (10, 0.3, 0.29, 0.31), (40, 0.35, 0.34, 0.36)]
    advice = advised(made_plan(tmp_path, "rising"), held_out=rising)
    assert list(found(advice)) == ["the held-out loss rises from its least"]
    assert moved(advice) == {"train.steps": (40, 10)}
    level = [(0, 0.5, 0.49, 0.51), (10, 0.3, 0.29, 0.31), (40, 0.305, 0.30, 0.31)]
    assert advised(made_plan(tmp_path, "level"), held_out=level).findings == []


def test_a_lora_that_is_worse_than_none_from_the_start_wants_a_lower_rate(tmp_path: Path) -> None:
    advice = advised(made_plan(tmp_path), held_out=[(0, 0.3, 0.29, 0.31), (40, 0.5, 0.49, 0.51)])
    assert moved(advice) == {"train.learning_rate": (1e-4, 3e-5)}


@pytest.mark.parametrize(("copies", "is_found"), [(5, True), (1, False)])
def test_copies_are_found_where_chance_does_not_make_them(
    tmp_path: Path, copies: int, is_found: bool
) -> None:
    of = made_plan(tmp_path)
    folder = write_run(of, falling())
    results.write(evaluation(of, copies), folder)
    advice = advise.advise(folder)
    assert ("pictures repeat the training pictures" in found(advice)) is is_found
    assert moved(advice) == ({"train.steps": (40, 20)} if is_found else {})


def test_an_evaluation_of_another_plan_is_none_of_this_run(tmp_path: Path) -> None:
    folder = write_run(made_plan(tmp_path), falling())
    results.write(evaluation(made_plan(tmp_path, seed=3), copies=12), folder)
    assert advise.advise(folder).findings == []


def evaluation(of: plan.Plan, copies: int) -> results.Evaluation:
    """What `lorac eval` writes of twelve pictures, some of them copies."""
    picture = results.Picture(
        file="a.png",
        prompt="a",
        seed=0,
        similarity=None,
        closeness=None,
        nearest=0.5,
        nearest_file="b.png",
        is_copy=False,
    )
    pictures = tuple(attrs.evolve(picture, is_copy=number < copies) for number in range(12))
    row = results.Row(step=40, weight=0.8, copies=copies / 12, pictures=pictures)
    return results.Evaluation(
        plan_hash=of.plan_hash,
        name=of.outputs.name,
        kind="images",
        judge=None,
        threshold=None,
        base=results.Row(step=0, weight=0.0),
        rows=(row,),
        chosen=results.Chosen(step=40, weight=0.8, step_reason="", weight_reason=""),
        grid="",
        warnings=(),
    )


def test_pictures_that_are_seen_too_often_want_fewer_steps_unless_something_is_held_out(
    tmp_path: Path,
) -> None:
    long = [0.1, 0.11] * 60
    advice = advised(made_plan(tmp_path, "long", steps=120), long)
    assert moved(advice) == {"train.steps": (120, 50)}
    assert "1 pictures × 480" in advice.findings[0].figure
    held = [(0, 0.5, 0.49, 0.51), (120, 0.3, 0.29, 0.31)]
    assert advised(made_plan(tmp_path, "held", steps=120), long, held_out=held).findings == []


@pytest.mark.parametrize(("norm", "rate"), [(0.001, 1e-3), (0.0049, 1e-3), (0.1, None), (0.7, 3e-5)])
def test_a_small_norm_wants_a_higher_rate_and_one_as_large_as_the_bases_a_lower(
    tmp_path: Path, norm: float, rate: float | None
) -> None:
    seen = evidence.measured(write_run(made_plan(tmp_path), falling()))
    advice = advise.judged(attrs.evolve(seen, norm=norm))
    assert moved(advice) == ({"train.learning_rate": (1e-4, rate)} if rate else {})


@pytest.mark.parametrize(("level", "is_found"), [(101, True), (140, False)])
def test_pictures_like_the_bases_are_found_on_the_contact_sheet(
    tmp_path: Path, level: int, is_found: bool
) -> None:
    of = made_plan(tmp_path)
    outputs = attrs.evolve(of.outputs, samples=attrs.evolve(of.outputs.samples, prompts=("a", "b")))
    folder = write_run(plan.make(of.program, outputs, of.estimate), falling())
    columns = {
        name: [Image.new("RGB", (64, 64), (grey,) * 3)] * 2 for name, grey in (("base", 100), ("LoRA", level))
    }
    sheet(("a", "b"), columns).save(folder / "sheet.png")
    assert ("pictures with the LoRA are those without it" in found(advise.advise(folder))) is is_found


@pytest.mark.parametrize(
    ("captions", "finding"),
    [
        (["a red cat on a mat", "a small dog in the rain"], ""),
        (["cat", "dog"], "captions are too short"),
        (["a red cat on a mat"] * 3, "captions are alike"),
        (["cat"] * 3, "captions are too short and are alike"),
    ],
)
def test_captions_that_say_little_are_found(tmp_path: Path, captions: list[str], finding: str) -> None:
    advice = advised(with_captions(made_plan(tmp_path), captions))
    assert list(found(advice)) == [finding] * bool(finding)


def test_a_base_that_knows_nothing_may_predict_something_else(tmp_path: Path) -> None:
    advice = advised(made_plan(tmp_path), [1.3 - 0.01 * step for step in range(STEPS)])
    assert moved(advice) == {"base.prediction_type": ("epsilon", "v_prediction")}


def test_the_command_writes_advice_and_shows_the_change_in_the_spec(tmp_path: Path) -> None:
    folder = write_run(made_plan(tmp_path), falling()[::-1])
    spec = tmp_path / "cat.py"
    spec.write_text(
        "from lorac import Experiment, Images, Train\n"
        'experiment = Experiment(name="cat", base="b", data=Images("d"), train=Train(learning_rate=1e-4))\n'
    )
    called = call("advise", str(folder), "--spec", str(spec))
    assert "unstable: the loss rises" in called.out
    assert "+experiment" in called.out
    assert "learning_rate=3e-05" in called.out
    told = json.loads((folder / "advice.json").read_text())["findings"][0]
    assert told["fields"] == {"train.learning_rate": {"old": 1e-4, "new": 3e-5}}
    assert told["change"] == "train.learning_rate: 0.0001 -> 3e-05"


def test_every_change_is_a_field_of_a_spec(tmp_path: Path) -> None:
    spec = tmp_path / "cat.py"
    spec.write_text(
        "from lorac import Experiment, Images\n"
        'experiment = Experiment(name="cat", base="b", data=Images("d"))\n'
    )
    moves = advised(
        made_plan(tmp_path), falling()[::-1], grad_norms=[0.01 * 1.2**n for n in range(STEPS)]
    ).moves
    assert "learning_rate=3e-05" in advise.spec_diff(load(spec)[0], moves)
