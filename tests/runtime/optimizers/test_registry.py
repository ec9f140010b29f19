"""Every optimizer of the registry: it learns, takes the memory of its trace, and goes on after a stop to the byte."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
import torch
from torch import nn

from lorac.estimate import phases
from lorac.estimate.trace import materialize, measure, trace
from runtime import plan
from runtime.adapters import adapted
from runtime.errors import PlanError
from runtime.export.peft import FILE
from runtime.families import family
from runtime.optimizers import OPTIMIZERS, build_optimizer
from runtime.optimizers.paging import page
from tests.runtime.optimizers.runs import WANTED, carried_out, last, stopped, tensors, with_optimizer

EVERY = pytest.mark.parametrize("name", OPTIMIZERS)


def test_every_optimizer_is_tested() -> None:
    assert WANTED.keys() == OPTIMIZERS.keys()
    assert [wanted.name for wanted, _, _ in WANTED.values()] == list(OPTIMIZERS)


def test_another_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        PlanError, match=r"train\.optimizer\.name: must be one of adamw, adafactor, lion, prodigy"
    ):
        build_optimizer(attrs.evolve(WANTED["lion"][0], name="sgd"), {}, {})  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------ the learning


@EVERY
def test_it_solves_least_squares(name: str) -> None:
    generator = torch.Generator().manual_seed(3)
    given, truth = torch.randn(64, 8, generator=generator), torch.randn(8, 4, generator=generator)
    weight = nn.Parameter(torch.zeros(8, 4))
    wanted, rate, _ = WANTED[name]
    optimizer = build_optimizer(wanted, {"w": weight}, {"w": rate})
    losses = []
    for _ in range(300):
        loss = (given @ (weight - truth)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]


def test_prodigy_refuses_several_rates() -> None:
    of = {"a": nn.Parameter(torch.zeros(2)), "b": nn.Parameter(torch.zeros(2))}
    with pytest.raises(PlanError, match="Prodigy estimates one rate for all weights, got 2 rates"):
        build_optimizer(WANTED["prodigy"][0], of, {"a": 1.0, "b": 0.5})


# -------------------------------------------------------------------------------------------------------- the memory


def training(name: str, paged: bool = False) -> Callable[[], Callable[[], None]]:
    """Three layers, without their biases."""

    def make() -> Callable[[], None]:
        with torch.device("meta"):
            model = nn.Sequential(*(nn.Linear(wide, 512, bias=False) for wide in (256, 512, 512)))
        materialize(model)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(0.01)
        of = dict(model.named_parameters())
        optimizer = build_optimizer(WANTED[name][0], of, dict.fromkeys(of, 1e-3))
        if paged:
            page(optimizer)

        def step() -> None:
            model(torch.ones(2, 256)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    return make


@EVERY
@pytest.mark.parametrize("paged", [False, True])
def test_the_traced_state_and_peak_are_the_measured_ones(name: str, paged: bool) -> None:
    traced, measured = trace(training(name, paged), device="cpu"), measure(training(name, paged))
    state = traced.peak.by_kind()["optimizer state"]
    assert state == measured.peak.by_kind()["optimizer state"]
    assert traced.peak.bytes == measured.peak.bytes
    numbers, each = 512 * (256 + 512 + 512), WANTED[name][2]
    kept = 4 * numbers * each if each else 4 * (3 * 512 + 256 + 512 + 512)
    assert kept <= state <= kept + 3 * 3 * 512  # and single numbers, which take 512 bytes each


# --------------------------------------------------------------------------------------------------------- the runs


@pytest.fixture(scope="module", params=OPTIMIZERS)
def ran(
    request: pytest.FixtureRequest,
    four_steps: plan.Plan,
    project: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[str, Path]:
    """Each optimizer, and the folder in which its plan was carried out without a stop."""
    of = with_optimizer(four_steps, request.param)
    return request.param, carried_out(of, project, tmp_path_factory.mktemp("ran") / request.param)


def test_it_trains_a_base_and_goes_on_after_a_stop_to_the_same_bytes(
    ran: tuple[str, Path], four_steps: plan.Plan, project: Path, tmp_path: Path
) -> None:
    name, through = ran
    of = with_optimizer(four_steps, name)
    stopped(of, project, tmp_path / "run")
    resumed = carried_out(of, project, tmp_path / "run")
    assert (resumed / FILE).read_bytes() == (through / FILE).read_bytes()
    for file in ("adapter.safetensors", "optimizer.safetensors"):
        there, here = last(resumed, file), last(through, file)
        assert there.keys() == here.keys()
        assert all(torch.equal(there[key], here[key]) for key in here)
    made = tensors(through / FILE)
    assert all(made[key].abs().max() > 0 for key in made if "lora_B" in key)


def test_paged_state_waits_in_the_computers_memory_and_the_bytes_are_the_same(
    ran: tuple[str, Path], four_steps: plan.Plan, project: Path, tmp_path: Path
) -> None:
    name, through = ran
    of = with_optimizer(four_steps, name, paged_optimizer=True)
    stopped(of, project, tmp_path / "run")
    there, here = tensors(carried_out(of, project, tmp_path / "run") / FILE), tensors(through / FILE)
    assert all(torch.equal(there[key], here[key]) for key in here)


@EVERY
def test_the_plans_memory_has_the_state_where_it_is(name: str, four_steps: plan.Plan) -> None:
    here, paged = (
        with_optimizer(four_steps, name, paged_optimizer=where, device="cuda", threads=0).program
        for where in (False, True)
    )
    modules = phases._adapted(family("causal_lm"), here)
    kept = phases.state_bytes(here, modules)
    numbers = sum(p.numel() for module in modules.values() for p in adapted.parameters(module).values())
    each = WANTED[name][2]
    assert kept == 4 * each * numbers if each else 0 < kept < 4 * numbers
    on_card, on_host = phases.training(here, (8, 6)), phases.training(paged, (8, 6))
    assert on_card.peak.by_kind()["optimizer state"] >= kept
    stays = on_host.peak.by_kind().get("optimizer state", 0)
    assert stays == (512 * 28 if name == "adafactor" else 0)  # a single number of each of 14 modules' A and B
    assert on_host.host_phases["step"].by_kind()["optimizer state"] >= kept
    assert on_host.peak.bytes < on_card.peak.bytes


def test_prodigys_estimate_is_in_the_checkpoint(ran: tuple[str, Path]) -> None:
    name, through = ran
    known = {key for key in last(through, "optimizer.safetensors") if key.startswith("group 0/")}
    wanted = {
        "prodigy": {"group 0/d", "group 0/d_max", "group 0/d_numerator", "group 0/step"},
        "schedule_free_adamw": {"group 0/weight_sum", "group 0/lr_max", "group 0/step"},
    }
    assert wanted.get(name, set()) <= known
