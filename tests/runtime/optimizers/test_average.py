"""What is exported, evaluated and sampled: an average, which the training does not see."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import pytest
import torch

from runtime import average, plan, step
from runtime.export.peft import FILE
from runtime.families import causal_lm
from runtime.families.protocol import Modules
from runtime.run import adapt
from tests.runtime.optimizers.runs import carried_out, last, stopped, tensors, with_optimizer

DECAY = 0.5


@pytest.fixture(scope="module")
def averaged(
    four_steps: plan.Plan, project: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """Folders of a run with a moving average, and of the same one without."""
    folder = tmp_path_factory.mktemp("averaged")
    with_ema, without = (with_optimizer(four_steps, "adamw", ema=decay) for decay in (DECAY, 0.0))
    return carried_out(with_ema, project, folder / "with"), carried_out(without, project, folder / "without")


def exported(run: Path) -> dict[str, torch.Tensor]:
    """The factors of the LoRA by their masters' names."""
    names = {"lora_A.weight": "A", "lora_B.weight": "B"}
    found = {}
    for name, tensor in tensors(run / FILE).items():
        path, _, kind = name.removeprefix("base_model.model.").rpartition(".lora_")
        found[f"model.{path}.{names[f'lora_{kind}']}"] = tensor
    return found


def test_the_lora_is_the_average_and_the_training_goes_on_without_it(averaged: tuple[Path, Path]) -> None:
    made, plain = averaged
    raw, shadow = last(made, "adapter.safetensors"), last(made, "ema.safetensors")
    assert all(torch.equal(raw[name], tensor) for name, tensor in last(plain, "adapter.safetensors").items())
    assert shadow.pop("updates") == 4
    files = exported(made)
    assert files.keys() == shadow.keys()
    assert all(torch.equal(files[name], shadow[name]) for name in shadow)
    assert not all(torch.equal(files[name], raw[name]) for name in raw)


def test_the_manifest_says_that_it_is_an_average(averaged: tuple[Path, Path]) -> None:
    said = [json.loads((run / "tiny.lorac.json").read_text())["made"]["average"] for run in averaged]
    assert said == ["exponential moving average, decay 0.5", ""]


def test_what_is_held_out_is_measured_with_the_average(averaged: tuple[Path, Path]) -> None:
    found = [json.loads((run / "tiny.lorac.json").read_text())["run"]["metrics"] for run in averaged]
    before, after = ([one[f"held_out_loss_{when}"] for one in found] for when in ("before", "after"))
    assert before[0] == before[1]
    assert after[0] != after[1]


@pytest.mark.parametrize("name", ["adamw", "prodigy"])
def test_an_average_goes_on_after_a_stop_to_the_same_bytes(
    name: str, four_steps: plan.Plan, project: Path, tmp_path: Path
) -> None:
    of = with_optimizer(four_steps, name, ema=DECAY)
    through = carried_out(of, project, tmp_path / "through")
    stopped(of, project, tmp_path / "stopped")
    resumed = carried_out(of, project, tmp_path / "stopped")
    assert (resumed / FILE).read_bytes() == (through / FILE).read_bytes()
    there, here = last(resumed, "ema.safetensors"), last(through, "ema.safetensors")
    assert all(torch.equal(there[key], here[key]) for key in here)


# ------------------------------------------------------------------------------------------- without the whole run


def trainee(of: plan.Plan, project: Path, dtype: torch.dtype = torch.float32) -> step.Trainee:
    """The tiny base with the plan's adapter on it, in a dtype."""
    modules: Modules = {
        name: causal_lm.load(project / "base", of.program.base, name, dtype) for name in causal_lm.COMPONENTS
    }
    return adapt(causal_lm, modules, of.program)  # type: ignore[arg-type]


def moved(of: step.Trainee, steps: int) -> step.Trainee:
    """After steps along gradients that follow from their number."""
    for number in range(steps):
        generator = torch.Generator().manual_seed(number)
        for master in of.masters.values():
            master.grad = torch.randn(master.shape, generator=generator)
        step.update(of, 1.0)
    return of


def test_the_average_of_one_step_is_near_that_step(four_steps: plan.Plan, project: Path) -> None:
    of = trainee(with_optimizer(four_steps, "adamw", ema=0.999), project)
    first = {name: master.detach().clone() for name, master in of.masters.items()}
    moved(of, 1)
    assert of.ema is not None
    for name, master in of.masters.items():  # at first 2 / 11 of what was before stays, not 0.999
        expected = first[name] * (2 / 11) + master.detach() * (9 / 11)
        torch.testing.assert_close(of.ema.shadow[name], expected)


@pytest.mark.parametrize(("name", "ema"), [("adamw", DECAY), ("schedule_free_adamw", 0.0)])
def test_showing_the_average_leaves_the_weights_as_they_were_to_the_byte(
    name: str, ema: float, four_steps: plan.Plan, project: Path
) -> None:
    of = with_optimizer(four_steps, name, ema=ema, dtype="bf16")
    looked, untouched = (moved(trainee(of, project, torch.bfloat16), 3) for _ in range(2))
    with average.shown(looked):
        values = {key: master.detach().clone() for key, master in looked.masters.items()}
        assert all(torch.equal(weight, values[key].bfloat16()) for key, weight in looked.weights.items())
    assert any(not torch.equal(values[key], untouched.masters[key]) for key in values)
    for one in (looked, untouched):
        moved(one, 3)
    for key, master in untouched.masters.items():
        assert torch.equal(master, looked.masters[key])
        assert torch.equal(untouched.weights[key], looked.weights[key])


def test_a_schedule_free_lora_is_the_average_of_the_steps(four_steps: plan.Plan, project: Path) -> None:
    """With one rate the average x is the plain mean of the points z, which AdamW without a momentum goes through."""
    of = moved(trainee(with_optimizer(four_steps, "schedule_free_adamw"), project), 1)
    points = {name: [of.optimizer.state[master]["z"].clone()] for name, master in of.masters.items()}
    for number in range(1, 4):
        generator = torch.Generator().manual_seed(number)
        for master in of.masters.values():
            master.grad = torch.randn(master.shape, generator=generator)
        step.update(of, 1.0)
        for name, master in of.masters.items():
            points[name].append(of.optimizer.state[master]["z"].clone())
    with average.shown(of):
        for name, master in of.masters.items():
            torch.testing.assert_close(
                master.detach(), torch.stack(points[name]).mean(0), atol=1e-5, rtol=1e-4
            )


def test_an_average_counts_in_the_plans_memory(four_steps: plan.Plan) -> None:
    from lorac.estimate import phases

    program = with_optimizer(four_steps, "adamw", ema=DECAY).program
    kinds = phases.training(program, (8, 6)).peak.by_kind()
    assert kinds["averaged weights"] == kinds["adapter"]
    without = attrs.evolve(program, train=attrs.evolve(program.train, ema=0.0))
    assert "averaged weights" not in phases.training(without, (8, 6)).peak.by_kind()
