"""From spec to plan: the same inputs give the same plan, anywhere; other inputs give another."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings

from lorac import Auto, Base, Experiment, Fit, Images, LoRA, Outputs, Samples, Train
from lorac.compile import compile_experiment
from lorac.estimate import cards
from lorac.resolve import resolve
from runtime import plan
from runtime.errors import InputError, PlanError, SpecError
from tests.lorac import strategies

SPEC = """
from lorac import *
experiment = Experiment(
    name="tiny", base="base", data=Images("data", resolution=64, buckets=False, trigger="tiny style"),
    adapter=LoRA(rank=2), train=Train(effective_batch=2, steps=2, learning_rate=1e-3),
    fit=Fit(card="cpu"),
)
"""


def here(folder: Path, base: Path, data: Path) -> Path:
    """A project of its own: spec, base and data in a folder."""
    folder.mkdir(parents=True)
    shutil.copytree(base, folder / "base")
    shutil.copytree(data, folder / "data")
    (folder / "tiny.py").write_text(SPEC)
    return folder


def planned(project: Path, home: Path) -> plan.Plan:
    """`lorac plan tiny.py` as a process, with a home of its own."""
    environment = {
        **os.environ,
        "HOME": str(home),
        "LORAC_CACHE": str(home / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "lorac", "plan", "tiny.py", "--json"]
    subprocess.run(command, cwd=project, env=environment, check=True, capture_output=True, text=True)
    return plan.read(project / "generated" / "tiny" / "plan.json")


def test_two_folders_and_two_homes_give_the_same_plan_byte_for_byte(
    tmp_path: Path, tiny_base: Path, tiny_data: Path
) -> None:
    first = planned(here(tmp_path / "ann" / "work", tiny_base, tiny_data), tmp_path / "ann")
    second = planned(here(tmp_path / "ben" / "deep" / "er", tiny_base, tiny_data), tmp_path / "ben")

    assert plan.dumps(first) == plan.dumps(second)
    assert str(tmp_path) not in plan.dumps(first)


def test_one_pixel_of_one_picture_gives_another_hash(
    tmp_path: Path, tiny_base: Path, tiny_data: Path
) -> None:
    from PIL import Image

    project = here(tmp_path / "work", tiny_base, tiny_data)
    before = planned(project, tmp_path / "home")
    with Image.open(project / "data" / "2.png") as picture:
        changed = picture.convert("RGB")
    red, green, blue = changed.getpixel((5, 5))  # type: ignore[misc]
    changed.putpixel((5, 5), (red, green, blue ^ 1))
    changed.save(project / "data" / "2.png")
    after = planned(project, tmp_path / "home")

    assert after.plan_hash != before.plan_hash
    assert after.program.base == before.program.base


def experiment(base: Path | str, data: Path | str, **parts: object) -> Experiment:
    given = {
        "name": "tiny",
        "base": base if isinstance(base, Base) else Base(str(base)),
        "data": Images(str(data), resolution=64, buckets=False),
        "adapter": LoRA(rank=2),
        "train": Train(effective_batch=2, steps=2),
        "fit": Fit(card="cpu"),
    }
    return Experiment(**{**given, **parts})  # type: ignore[arg-type]


def test_a_plan_asked_for_again_is_the_same_and_nothing_is_loaded(
    tmp_path: Path, tiny_base: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = compile_experiment(experiment(tiny_base, tiny_data), tmp_path, tmp_path)
    monkeypatch.setattr("lorac.compile._compile", None)

    assert compile_experiment(experiment(tiny_base, tiny_data), tmp_path, tmp_path) == first


def test_a_damaged_kept_plan_is_made_anew(
    tmp_path: Path, tiny_base: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORAC_CACHE", str(tmp_path / "cache"))
    first = compile_experiment(experiment(tiny_base, tiny_data), tmp_path, tmp_path)
    (kept,) = (tmp_path / "cache" / "plans").glob("*.json")
    kept.write_text(kept.read_text()[:-40])

    assert compile_experiment(experiment(tiny_base, tiny_data), tmp_path, tmp_path) == first


def test_the_estimate_is_the_plans(tmp_path: Path, tiny_base: Path, tiny_data: Path) -> None:
    made = experiment(tiny_base.resolve(), tiny_data.resolve())

    assert made.estimate(card="cpu") == made.plan(card="cpu").estimate
    assert made.estimate(card="cpu").peak_bytes > 2**20


def test_a_base_that_is_not_here_is_planned_only_if_asked_to(tmp_path: Path, tiny_data: Path) -> None:
    with pytest.raises(InputError) as refused:
        compile_experiment(experiment("models/none.safetensors", tiny_data), tmp_path, tmp_path)

    assert refused.value.lines() == [
        "error: models/none.safetensors: the base is not here",
        f"hint: give a file or folder (looked for {tmp_path / 'models/none.safetensors'}), or plan without it:"
        " lorac plan SPEC --unlocked",
    ]


def test_an_unlocked_base_must_say_its_family(tmp_path: Path, tiny_data: Path) -> None:
    with pytest.raises(InputError) as refused:
        compile_experiment(
            experiment("models/none.safetensors", tiny_data), tmp_path, tmp_path, unlocked=True
        )

    assert refused.value.lines() == [
        "error: models/none.safetensors: is not here, so its family cannot be recognised",
        'hint: say which it is: Base("models/none.safetensors", family="sd1")',
    ]


def test_another_family_than_the_spec_says_is_refused_from_the_header(
    tmp_path: Path, tiny_base: Path, tiny_data: Path
) -> None:
    from runtime.families import inspect

    with pytest.raises(InputError, match="header says sd1, the spec says sdxl"):
        inspect.inspect(tiny_base, lambda path: "0" * 64, "sdxl")


def test_several_processes_are_planned_together_and_share_a_computers_cores(
    tmp_path: Path, tiny_base: Path, tiny_data: Path
) -> None:
    alone, shared = (
        compile_experiment(
            experiment(tiny_base, tiny_data, fit=Fit(card="cpu", processes=n)), tmp_path, tmp_path
        )
        for n in (1, 2)
    )

    train, compute = shared.program.train, shared.program.compute
    assert train.micro_batch * train.accumulation * 2 == train.effective_batch
    assert compute.threads == max(1, alone.program.compute.threads // 2)
    assert shared.estimate.usable_bytes == alone.estimate.usable_bytes // 2
    assert shared.plan_hash != alone.plan_hash


@pytest.mark.parametrize(
    "fit",
    [
        Fit(card="cpu", offload="text_encoder", attention_chunks=1),
        Fit(card="cpu", quantization=Auto(choices=("none", "nf4")), optimizer_bits=Auto()),
    ],
    ids=lambda fit: repr(fit),
)
def test_what_the_runtime_does_act_on_is_not_refused(
    tmp_path: Path, tiny_base: Path, tiny_data: Path, fit: Fit
) -> None:
    made = resolve(
        experiment(tiny_base, tiny_data, fit=fit), tmp_path, tmp_path, cards.find("cpu"), unlocked=False
    )

    assert made.program.compute.quantization == "none"
    assert made.program.train.optimizer.state_bits == 32


def test_a_schedule_ends_in_pure_noise_if_the_spec_says_so_and_of_a_flow_there_is_none(
    tmp_path: Path, tiny_data: Path
) -> None:
    def resolved(family: str) -> plan.Base:
        made = experiment("none", tiny_data)
        made = attrs.evolve(made, base=Base("none", family=family, zero_terminal_snr=True))
        return resolve(made, tmp_path, tmp_path, cards.find("12GB"), unlocked=True).program.base

    assert resolved("sd2").architecture["scheduler"][plan.ZERO_SNR] is True
    with pytest.raises(SpecError, match=r"base\.zero_terminal_snr: a FLUX\.1 has no schedule"):
        resolved("flux1")


@pytest.mark.parametrize(("ratio", "steps", "warmup"), [(0.1, 25, 3), (0.0, 25, 0), (0.99, 10, 10)])
def test_a_warm_up_that_is_a_share_of_the_steps_is_rounded_up(
    tmp_path: Path, tiny_data: Path, ratio: float, steps: int, warmup: int
) -> None:
    made = experiment("none", tiny_data, train=Train(steps=steps, warmup_ratio=ratio))
    made = attrs.evolve(made, base=Base("none", family="sd1"))
    train = resolve(made, tmp_path, tmp_path, cards.find("12GB"), unlocked=True).program.train
    assert train.schedule.warmup_steps == warmup


@pytest.mark.parametrize(
    ("said", "save", "draw"),
    [
        ({}, 0, 0),
        ({"save_epochs": 1}, 25, 25),
        ({"save_epochs": 1e-9}, 1, 1),
        ({"save_epochs": 0.25}, 7, 7),  # a quarter of 25 steps, rounded up
        ({"save_epochs": 0.28}, 7, 7),  # 7.000000000000001 in binary
        ({"save_epochs": 2, "every_epochs": 0.5}, 50, 13),
        ({"save_epochs": 2, "every": 3}, 50, 3),
        ({"save_steps": 9, "every_epochs": 3}, 9, 75),
    ],
)
def test_what_is_said_in_epochs_is_planned_in_steps(
    tmp_path: Path, tiny_data: Path, said: dict[str, Any], save: int, draw: int
) -> None:
    saving = {name: value for name, value in said.items() if name.startswith("save")}
    drawing = {name: value for name, value in said.items() if name not in saving}
    made = experiment(
        "none",
        "elsewhere",
        train=Train(effective_batch=4, epochs=3),
        samples=Samples(prompts=("a",), **drawing),
    )
    made = attrs.evolve(
        made,
        base=Base("none", family="sd1"),
        data=Images("elsewhere", expected_images=100),
        outputs=Outputs(**saving),
    )

    resolved = resolve(made, tmp_path, tmp_path, cards.find("12GB"), unlocked=True)

    assert resolved.program.train.steps == 75
    assert (resolved.outputs.save_steps, resolved.outputs.samples.every) == (save, draw)
    told = {one.field: one.value for one in resolved.decisions if "epochs of 25 steps" in one.reason}
    assert told.pop("steps") == "75"
    expected = {"outputs.save_steps": (saving, save), "samples.every": (drawing, draw)}
    assert told == {
        field: str(steps)
        for field, (given, steps) in expected.items()
        if {"save_epochs", "every_epochs"} & set(given)
    }


@pytest.mark.parametrize(
    ("train", "decay"),
    [
        ({"decay_ratio": 0.2}, 5),
        ({"decay_ratio": 0.21}, 6),
        ({"decay_steps": 4}, 4),
        ({"decay_ratio": 1.0, "warmup_steps": 5}, 20),
    ],
)
def test_the_steps_in_which_a_stable_rate_falls_are_planned(
    tmp_path: Path, tiny_data: Path, train: dict[str, Any], decay: int
) -> None:
    wanted = Train(steps=25, scheduler="warmup_stable_decay", min_ratio=0.1, **train)
    made = attrs.evolve(experiment("none", tiny_data, train=wanted), base=Base("none", family="sd1"))
    schedule = resolve(made, tmp_path, tmp_path, cards.find("12GB"), unlocked=True).program.train.schedule

    assert (schedule.decay_steps, schedule.min_ratio, schedule.cycles) == (decay, 0.1, 1)


def test_references_are_places_in_the_plan(tmp_path: Path, tiny_base: Path, tiny_data: Path) -> None:
    shutil.copy(tiny_data / "0.png", tmp_path / "real.png")
    samples = Samples(prompts=("a",), references=("real.png",))
    made = compile_experiment(experiment(tiny_base, tiny_data, samples=samples), tmp_path, tmp_path)

    assert made.outputs.samples.references == ("real.png",)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(strategies.experiments())
def test_any_experiment_is_refused_in_words_or_resolves_to_a_program_that_survives_json(
    tmp_path: Path, any_one: Experiment
) -> None:
    base = Base("none", family="sd1")
    made = attrs.evolve(any_one, base=base, adapter=LoRA(rank=4), fit=Fit())  # type: ignore[misc]
    try:
        resolved = resolve(made, tmp_path, tmp_path / "specs", cards.find("12GB"), unlocked=True)
    except SpecError as refused:
        assert all(problem.what for problem in refused.problems)
        return
    again = plan.structure(plan.unstructure(resolved.program), plan.Program, "x")

    assert again == resolved.program
    assert plan.hash_program(again) == plan.hash_program(resolved.program)
    train = resolved.program.train
    assert train.micro_batch * train.accumulation * train.processes == any_one.train.effective_batch


def edited(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new, 1)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"rank": 2', '"rank": 3', "plan_hash does not match the program"),
        ('"rank": 2', '"rank": 2.5', "expected int, got float 2.5"),
        ('"rank": 2', '"rank": true', "expected int, got bool True"),
        ('"rank": 2', '"rank": 2, "rank": 2', "rank"),
        ('"rank": 2', '"rnak": 2', "rnak"),
        ('"steps": 2', '"steps": 1e999', "1e999"),
        ('"path": "0.png"', '"path": "../0.png"', "must stay inside the data folder"),
        (
            f'"format": {plan.FORMAT}',
            '"format": 1',
            f"is a plan of format 1, and this lorac reads format {plan.FORMAT}",
        ),
        ('"name": "tiny"', '"name": "a/b"', "must not contain '/'"),
    ],
)
def test_an_edited_plan_is_refused_with_what_is_wrong(
    tmp_path: Path, tiny_base: Path, tiny_data: Path, old: str, new: str, said: str
) -> None:
    text = plan.dumps(compile_experiment(experiment(tiny_base, tiny_data), tmp_path, tmp_path))

    with pytest.raises(PlanError) as refused:
        plan.loads(edited(text, old, new))

    assert said in "\n".join(refused.value.lines())
