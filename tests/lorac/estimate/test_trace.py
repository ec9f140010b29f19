"""What a trace sees: the same bytes as a real run, each with its kind, its module and its time of life."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import lorac.estimate
from lorac.estimate import cards
from lorac.estimate.recorder import Recorder
from lorac.estimate.trace import label, materialize, measure, phase, trace
from runtime.optimizers.adamw8bit import AdamW8bit

Make = Callable[[], Callable[[], None]]


def maker(checkpointed: bool = False, batch: int = 8) -> Make:
    """Two wide layers, the first frozen, AdamW over the second."""

    def make() -> Callable[[], None]:
        with torch.device("meta"):
            model = nn.Sequential(nn.Linear(256, 1024), nn.GELU(), nn.Linear(1024, 256))
        model[0].requires_grad_(False)
        materialize(model)
        optimizer = torch.optim.AdamW(model[2].parameters())

        def step() -> None:
            inputs = torch.randn(batch, 256, requires_grad=True)
            if checkpointed:
                out = torch.utils.checkpoint.checkpoint(model, inputs, use_reentrant=False)
            else:
                out = model(inputs)
            out.square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    return make


@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("batch", [1, 8, 64])
def test_a_traced_peak_is_the_measured_one(checkpointed: bool, batch: int) -> None:
    traced = trace(maker(checkpointed, batch), device="cpu").peak.bytes
    assert traced == measure(maker(checkpointed, batch)).peak.bytes


def test_each_byte_at_the_peak_has_its_kind() -> None:
    kinds = trace(maker(), device="cpu").peak.by_kind()
    assert kinds["base weights"] == (256 * 1024 + 1024) * 4
    learned = (1024 * 256 + 256) * 4
    assert kinds["adapter"] == learned
    assert kinds["gradients"] == learned
    assert kinds["optimizer state"] == 2 * learned + 2 * 512  # and AdamW's two step counts


def test_a_saved_activation_names_the_module_that_made_it() -> None:
    traced = trace(maker(batch=4096), device="cpu", steps=1)
    saved = [block for block in traced.peak.live if block.kind == "saved activations"]
    assert {block.module for block in saved} >= {"Sequential.0", "Sequential.1"}


def test_recomputing_keeps_less() -> None:
    assert trace(maker(True, 4096)).peak.bytes < trace(maker(False, 4096)).peak.bytes


def test_a_trace_is_the_same_each_time() -> None:
    first, second = trace(maker()), trace(maker())
    assert (first.blocks, first.events, first.calls) == (second.blocks, second.events, second.calls)


def test_what_an_operator_gives_is_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> Callable[[], None]:
        with torch.device("meta"):
            model = nn.Sequential(nn.Linear(24, 24), nn.LayerNorm(24), nn.SiLU())
        materialize(model)
        generator = torch.Generator()

        def step() -> None:
            said = model(torch.randn(3, 24))
            (said * torch.empty(3, 24).bernoulli_(0.5, generator=generator)).square().mean().backward()

        return step

    first, asked, dispatch = trace(make, device="cpu"), [], FakeTensorMode.dispatch

    def counted(mode: FakeTensorMode, func: Any, *rest: Any) -> Any:
        asked.append(func)
        return dispatch(mode, func, *rest)

    monkeypatch.setattr(FakeTensorMode, "dispatch", counted)
    assert trace(make, device="cpu") == first
    assert asked == []


def test_alike_parameters_that_move_once_leave_the_trace_of_each_that_moves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moved: list[torch.Size] = []
    move = AdamW8bit._move_packed

    def counted(optimizer: AdamW8bit, group: dict[str, Any], parameter: nn.Parameter) -> None:
        moved.append(parameter.shape)
        move(optimizer, group, parameter)

    def make() -> Callable[[], None]:
        shapes = [(64, 80), (100, 64)] * 4
        weights = [nn.Parameter(torch.empty(shape)) for shape in shapes]
        optimizer = AdamW8bit([{"params": weights[:4]}, {"params": weights[4:], "weight_decay": 0.0}])

        def step() -> None:
            torch.stack([weight.square().mean() for weight in weights]).sum().backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    monkeypatch.setattr(AdamW8bit, "_move_packed", counted)
    once, few = trace(make, steps=3), len(moved)
    monkeypatch.setattr(Recorder, "repeat", lambda recorder, name, run: run())

    assert once == trace(make, steps=3)
    assert few < len(moved) - few == 3 * 8


def test_flops_of_a_linear_layer_are_two_a_multiply_add() -> None:
    calls = [call for call in trace(maker(batch=16)).calls if call.operator == "addmm"]
    assert [call.flops for call in calls] == [2 * 16 * 256 * 1024] * 2
    assert {call.during for call in calls} == {"forward"}


def test_phases_have_their_own_peaks() -> None:
    def make() -> Callable[[], None]:
        def step() -> None:
            with phase("caching"):
                big = torch.empty(1024, 1024)
                del big
            small = torch.empty(1024)
            del small

        return step

    phases = trace(make, steps=1).phases
    assert (phases["caching"].bytes, phases["step"].bytes) == (4 * 1024 * 1024, 4096)


def test_a_label_is_believed() -> None:
    def make() -> Callable[[], None]:
        masters = torch.empty(1000)
        label("master weights", masters)

        def step() -> None:
            assert masters is not None  # held for as long as the step is

        return step

    assert trace(make, steps=1).peak.by_kind() == {"master weights": 4096}


def test_a_step_that_asks_for_values_is_answered() -> None:
    def make() -> Callable[[], None]:
        values = torch.randn(100, 10)

        def step() -> None:
            assert values.sum().item() == 1.0
            assert not torch.isnan(values).any()
            assert values[values > 0].shape == (1000,)
            assert bool(torch.rand(1) > 0.1)

        return step

    trace(make, steps=1)


@pytest.mark.parametrize("runs_through", [True, False])
def test_a_choice_by_positions_is_followed(runs_through: bool) -> None:
    def make() -> Callable[[], None]:
        def step() -> None:
            positions = torch.arange(8).expand(2, 8) // (1 if runs_through else 2)
            if not (positions.diff(dim=-1) == 1).all():
                torch.empty(2**20)

        return step

    traced, measured = trace(make, device="cpu").peak.bytes, measure(make).peak.bytes
    assert traced == measured
    assert (measured > 2**20) is not runs_through


def test_what_was_written_over_is_not_known_any_more() -> None:
    answers = []

    def make() -> Callable[[], None]:
        def step() -> None:
            positions = torch.arange(4)
            answers.append(bool((positions == torch.arange(4)).all()))
            positions.copy_(torch.randint(9, (4,)))
            answers.append(bool((positions == torch.arange(4)).all()))

        return step

    trace(make, steps=1)
    assert answers == [True, False]


@pytest.mark.parametrize("loss", [nn.functional.mse_loss, nn.functional.smooth_l1_loss])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_a_loss_keeps_the_storage_that_it_was_summed_in(loss: Callable[..., Any], reduction: str) -> None:
    def make() -> Callable[[], None]:
        def step() -> None:
            kept = loss(torch.zeros(64, 512, requires_grad=True), torch.zeros(64, 512), reduction=reduction)
            kept.sum().backward()

        return step

    assert trace(make, device="cpu").peak.bytes == measure(make).peak.bytes


@settings(max_examples=8, deadline=None)
@given(
    widths=st.lists(st.integers(1, 300), min_size=2, max_size=5),
    batch=st.integers(1, 40),
    accumulated=st.integers(1, 3),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    optimizer=st.sampled_from([torch.optim.SGD, torch.optim.Adagrad, torch.optim.AdamW]),
)
def test_a_strangers_training_loop_takes_what_its_trace_says(
    widths: list[int],
    batch: int,
    accumulated: int,
    dtype: torch.dtype,
    optimizer: Callable[..., torch.optim.Optimizer],
) -> None:
    def make() -> Callable[[], None]:
        with torch.device("meta"):
            layers = [nn.Linear(*ends, dtype=dtype) for ends in pairwise(widths)]
            model = nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))
        materialize(model)
        steps = optimizer(model.parameters())

        def step() -> None:
            for _ in range(accumulated):
                out = model(torch.randn(batch, widths[0], dtype=dtype))
                nn.functional.mse_loss(out, torch.zeros_like(out)).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            steps.step()
            steps.zero_grad()

        return step

    assert trace(make, device="cpu").peak.bytes == measure(make).peak.bytes


def test_the_documented_example_runs_as_it_stands() -> None:
    lines = (lorac.estimate.__doc__ or "").splitlines()
    example = "\n".join(line[4:] for line in lines if line.startswith("    "))
    names: dict[str, Any] = {"torch": torch, "MyModel": lambda: nn.Linear(16, 8)}
    exec(example, names)  # noqa: S102 (our own documentation)

    result = names["result"]
    assert result.peak.bytes == sum(result.peak.by_kind().values()) > 0
    assert (
        result.peak.by_kind()["adapter"] == 2 * 512
    )  # 136 numbers of two bytes in two tensors, each rounded up


def test_cuda_attention_keeps_the_flash_kernels_sums() -> None:
    def make() -> Callable[[], None]:
        query = torch.randn(2, 4, 128, 64, dtype=torch.bfloat16, requires_grad=True)

        def step() -> None:
            nn.functional.scaled_dot_product_attention(query, query, query, is_causal=True).sum().backward()

        return step

    made = [call.operator for call in trace(make, steps=1).calls]
    assert "_scaled_dot_product_flash_attention" in made
    assert "_scaled_dot_product_flash_attention_backward" in made
    old = [call.operator for call in trace(make, steps=1, capability=(7, 5)).calls]
    assert not any("flash" in operator for operator in old)


def test_no_published_run_needs_more_than_the_margin_over_what_was_predicted() -> None:
    rows = json.loads((Path(__file__).parents[3] / "docs" / "memory.json").read_text())["published"]
    assert len(rows) >= 20
    assert max(row["published"] / row["predicted"] - 1 for row in rows) < cards.MARGIN
