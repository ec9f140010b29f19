"""Every optimizer of the registry: it learns, its memory is what the trace says, a stopped run ends in the same bytes."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import nn

from lorac.estimate import phases
from lorac.estimate.trace import materialize, measure, trace
from runtime import plan
from runtime.errors import Interrupted, PlanError
from runtime.optimizers import OPTIMIZERS, build_optimizer
from runtime.optimizers.paging import page, state_tensors
from runtime.safeio.weights import open_weights
from tests.runtime.plans import carry_out, tiny_plan

COMMON: dict[str, Any] = {"beta1": 0.9, "beta2": 0.99, "weight_decay": 0.01}
WANTED: dict[str, tuple[plan.Optimizer, float, int]] = {
    "adamw": (plan.AdamW(eps=1e-8, **COMMON), 1e-2, 2),
    "adafactor": (
        plan.Adafactor(
            beta1=0.0, decay_power=0.8, eps=1e-30, clip_threshold=1.0, scale_parameter=False, weight_decay=0.01
        ),
        1e-2,
        0,
    ),
    "lion": (plan.Lion(**COMMON), 1e-2, 1),
    "prodigy": (
        plan.Prodigy(
            eps=1e-8, d0=1e-4, d_coef=1.0, growth_rate=0.0, bias_correction=True, safeguard_warmup=True, **COMMON
        ),
        1.0,
        4,
    ),
    "schedule_free_adamw": (plan.ScheduleFreeAdamW(eps=1e-8, **COMMON), 5e-2, 2),
}
"""Each with a rate for the tests' problems, and how many numbers it keeps of each of a matrix's (0: rows and columns)."""

EVERY = pytest.mark.parametrize("name", OPTIMIZERS)


def test_every_optimizer_is_tested() -> None:
    assert WANTED.keys() == OPTIMIZERS.keys()
    assert [wanted.name for wanted, _, _ in WANTED.values()] == list(OPTIMIZERS)


def test_another_name_is_refused_with_those_there_are() -> None:
    with pytest.raises(PlanError, match=r"train\.optimizer\.name: must be one of adamw, adafactor, lion, prodigy"):
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


@EVERY
def test_what_is_kept_of_an_adapter_is_known_without_stepping_over_all_of_it(
    name: str, tiny_base: Path, tiny_data: Path
) -> None:
    of = planned(name, tiny_base, tiny_data)
    modules = phases._adapted(phases.family("sd1"), of.program)
    numbers = [p.numel() for m in modules.values() for n, p in m.named_parameters() if "lora" in n]
    each = WANTED[name][2]
    kept = phases.state_bytes(of.program, modules)
    assert kept == 4 * each * sum(numbers) if each else 0 < kept < 4 * sum(numbers)


# --------------------------------------------------------------------------------------------------------- the runs


def planned(name: str, base: Path, data: Path, **changes: Any) -> plan.Plan:
    wanted, rate, _ = WANTED[name]
    return tiny_plan(
        base, data, **{"optimizer": wanted, "learning_rate": rate, "steps": 4, "save_steps": 0, **changes}
    )


def stopped(of: plan.Plan, folder: Path, step: int) -> None:
    """Run the plan until it is stopped in a step."""

    def stop(at: int) -> None:
        if at == step:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        carry_out(of, folder, stop)


def tensors(path: Path) -> dict[str, torch.Tensor]:
    with open_weights(path) as file:
        return {name: file.load(name) for name in file}


@pytest.fixture(scope="module", params=OPTIMIZERS)
def ran(
    request: pytest.FixtureRequest, tiny_base: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, plan.Plan, Path]]:
    """Of each optimizer a plan of four steps, carried out without a stop: its name, the plan, the LoRA."""
    of = planned(request.param, tiny_base, tiny_data)
    yield request.param, of, carry_out(of, tmp_path_factory.mktemp("ran") / "through")


def test_it_trains_a_base_and_goes_on_after_a_stop_to_the_same_bytes(
    ran: tuple[str, plan.Plan, Path], tmp_path: Path
) -> None:
    _, of, through = ran
    stopped(of, tmp_path, 1)
    assert carry_out(of, tmp_path).read_bytes() == through.read_bytes()
    made = tensors(through)
    assert all(made[name].abs().max() > 0 for name in made if name.endswith("up.weight"))


def test_its_state_waits_in_the_computers_memory_and_the_bytes_are_the_same(
    ran: tuple[str, plan.Plan, Path], tmp_path: Path
) -> None:
    _, of, through = ran
    compute = attrs.evolve(of.program.compute, paged_optimizer=True)
    paged = plan.make(attrs.evolve(of.program, compute=compute), of.outputs, of.estimate)
    stopped(paged, tmp_path, 1)
    there, here = tensors(carry_out(paged, tmp_path)), tensors(through)
    assert all(torch.equal(there[name], here[name]) for name in here)
