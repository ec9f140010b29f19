"""AdamW with 8-bit moments: near to AdamW, the same each time, and resumed to the byte."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import attrs
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lorac.estimate.trace import materialize, measure, trace
from runtime import plan
from runtime.errors import PlanError
from runtime.optimizers import build_optimizer
from runtime.optimizers.adamw8bit import BLOCK, SMALLEST, AdamW8bit, dynamic_map

WANTED = plan.AdamW(beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01, state_bits=8)
LARGE, SMALL = "large", "small"


def parameters() -> dict[str, nn.Parameter]:
    """One tensor with packed moments, whose last block is a part of one, and one with float32 moments."""
    generator = torch.Generator().manual_seed(11)
    return {
        LARGE: nn.Parameter(torch.randn(90, 57, generator=generator) * 0.1),
        SMALL: nn.Parameter(torch.randn(57, 20, generator=generator) * 0.1),
    }


def built(of: dict[str, nn.Parameter], bits: int = 8, rate: float = 1e-2) -> torch.optim.Optimizer:
    """The optimizer that the runtime would train `of` with."""
    wanted = attrs.evolve(WANTED, state_bits=bits)
    return build_optimizer(wanted, of, {LARGE: rate, SMALL: rate / 2})


def regress(of: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
    """Full steps of a two-layer regression, whose inputs follow from the step's number; the losses."""
    losses = []
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        given = torch.randn(32, 90, generator=generator)
        wanted = torch.stack([given[:, :45].sum(1), given[:, 45:].sum(1)], 1).repeat(1, 10) / 10
        loss = F.mse_loss((given @ of[LARGE]).tanh() @ of[SMALL], wanted)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def same(left: Tensor, right: Tensor) -> bool:
    """Equal to the byte, in dtype and in shape."""
    return left.dtype is right.dtype and torch.equal(left, right)


def all_same(left: dict[str, nn.Parameter], right: dict[str, nn.Parameter]) -> bool:
    return all(same(left[name], right[name]) for name in left)


# ------------------------------------------------------------------------------------------------------- the table


@pytest.mark.parametrize("signed", [True, False])
def test_the_table_is_bitsandbytes_own(signed: bool) -> None:
    from bitsandbytes import functional

    theirs = functional.create_dynamic_map(signed=signed)
    assert torch.allclose(torch.tensor(dynamic_map(signed)), theirs, rtol=1e-6, atol=0)


@pytest.mark.parametrize("signed", [True, False])
def test_the_table_has_256_values_over_seven_decades(signed: bool) -> None:
    values = dynamic_map(signed)
    assert len(set(values)) == 256
    assert values == sorted(values)
    assert (values[-1], 0.0 in values) == (1.0, True)
    assert min(value for value in values if value > 0) < 1e-6
    assert (min(values) < -0.99) is signed


# ------------------------------------------------------------------------------------------------------ the state


def test_a_large_tensors_moments_are_bytes_and_a_small_ones_float32() -> None:
    of = parameters()
    optimizer = built(of)
    regress(of, optimizer, range(2))
    blocks = -(-of[LARGE].numel() // BLOCK)
    large, small = optimizer.state[of[LARGE]], optimizer.state[of[SMALL]]
    assert {name: (tuple(value.shape), value.dtype) for name, value in large.items()} == {
        "step": ((), torch.float32),
        "exp_avg": ((blocks, BLOCK), torch.uint8),
        "exp_avg_scale": ((blocks,), torch.float32),
        "exp_avg_sq": ((blocks, BLOCK), torch.uint8),
        "exp_avg_sq_scale": ((blocks,), torch.float32),
    }
    assert of[SMALL].numel() < SMALLEST
    assert {name: (value.shape, value.dtype) for name, value in small.items() if name != "step"} == {
        "exp_avg": (of[SMALL].shape, torch.float32),
        "exp_avg_sq": (of[SMALL].shape, torch.float32),
    }


def test_a_packed_moment_comes_back_within_a_step_of_the_table() -> None:
    optimizer = AdamW8bit([nn.Parameter(torch.zeros(1))])
    generator = torch.Generator().manual_seed(4)
    for signed in (True, False):
        moment = torch.randn(100, 77, generator=generator) * torch.logspace(-6, 2, 100)[:, None]
        moment = moment if signed else moment.square()
        back = optimizer._unpack(*optimizer._pack(moment, signed), moment, signed)
        # The widest gap of the table is in its top decade: 0.9 / 64 with a sign, 0.9 / 128 without.
        gap = 0.9 / (64 if signed else 128)
        scales = F.pad(moment.reshape(-1), (0, -moment.numel() % BLOCK)).view(-1, BLOCK).abs().amax(1)
        bound = scales.repeat_interleave(BLOCK)[: moment.numel()].view_as(moment) * gap / 2
        assert ((back - moment).abs() <= bound * 1.001).all()
        near = moment.abs() > 1e-3 * bound / gap * 2  # far above the least values, errors are relative
        assert ((back - moment).abs()[near] <= 0.25 * moment.abs()[near]).all()


def test_a_second_moment_above_zero_is_never_packed_as_zero() -> None:
    optimizer = AdamW8bit([nn.Parameter(torch.zeros(1))])
    moment = torch.full((2, BLOCK), 1e-12)
    moment[0, 0], moment[1, 5] = 1.0, 0.0
    back = optimizer._unpack(*optimizer._pack(moment, False), moment, False)
    assert back[1, 5] == 0
    assert (back > 0).sum() == 2 * BLOCK - 1


def test_a_tensor_without_gradients_yet_keeps_zero_moments() -> None:
    parameter = nn.Parameter(torch.ones(SMALLEST))
    optimizer = AdamW8bit([parameter], weight_decay=0.0)
    parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert same(parameter.detach(), torch.ones(SMALLEST))
    assert not optimizer.state[parameter]["exp_avg_sq_scale"].any()


def test_a_gradient_that_falls_silent_moves_nothing_far() -> None:
    """Where a second moment were rounded to zero, the first would be divided by eps alone."""
    parameter = nn.Parameter(torch.zeros(SMALLEST))
    optimizer = AdamW8bit([parameter], lr=1.0, weight_decay=0.0)
    loud, quiet = torch.full((SMALLEST,), 1e-4), torch.full((SMALLEST,), 1e-4)
    loud[::BLOCK] = quiet[::BLOCK] = 1.0
    quiet[1::BLOCK] = 0.0
    for gradient in (loud, loud, quiet):
        before = parameter.detach().clone()
        parameter.grad = gradient.clone()
        optimizer.step()
        assert (parameter.detach() - before).abs().max() < 2


# ----------------------------------------------------------------------------------------------------- the learning


def test_it_follows_adamw() -> None:
    eight, full = parameters(), parameters()
    start = parameters()
    eight_losses = regress(eight, built(eight), range(150))
    full_losses = regress(full, built(full, 32), range(150))
    assert full_losses[-1] < 0.1 * full_losses[0]
    assert eight_losses[-1] == pytest.approx(full_losses[-1], rel=0.05)
    for name in (LARGE, SMALL):
        moved = (full[name] - start[name]).norm()
        assert (eight[name] - full[name]).norm() < 0.1 * moved, name


def test_the_first_step_is_adamws() -> None:
    eight, full = parameters(), parameters()
    regress(eight, built(eight), range(1))
    regress(full, built(full, 32), range(1))
    assert all_same(eight, full)


def test_small_tensors_move_exactly_as_under_adamw() -> None:
    eight, full = parameters(), parameters()
    for of, bits in ((eight, 8), (full, 32)):
        optimizer = built(of, bits)
        generator = torch.Generator().manual_seed(9)
        for _ in range(20):
            for parameter in of.values():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()
    assert same(eight[SMALL], full[SMALL])
    assert not same(eight[LARGE], full[LARGE])


def test_each_run_gives_the_same_bytes() -> None:
    first, second = parameters(), parameters()
    assert regress(first, built(first), range(10)) == regress(second, built(second), range(10))
    assert all_same(first, second)


def test_each_group_learns_at_its_own_rate() -> None:
    of = parameters()
    optimizer = built(of)
    assert [group["base_lr"] for group in optimizer.param_groups] == [1e-2, 5e-3]
    start = {name: parameter.detach().clone() for name, parameter in of.items()}
    optimizer.param_groups[0]["lr"] = 0.0
    regress(of, optimizer, range(1))
    assert same(of[LARGE].detach(), start[LARGE])
    assert not same(of[SMALL].detach(), start[SMALL])


# ----------------------------------------------------------------------------------------------------- resumption


def saved(state: dict[str, object]) -> dict[str, object]:
    """What comes back from disk."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, object] = torch.load(file, weights_only=True)
    return loaded


@pytest.mark.parametrize("through", [saved, copy.deepcopy, lambda state: state])
def test_it_goes_on_from_its_state_to_the_same_bytes(
    through: Callable[[dict[str, object]], dict[str, object]],
) -> None:
    whole = parameters()
    whole_optimizer = built(whole)
    regress(whole, whole_optimizer, range(6))
    resumed = {name: nn.Parameter(parameter.detach().clone()) for name, parameter in whole.items()}
    optimizer = built(resumed)
    optimizer.load_state_dict(through(whole_optimizer.state_dict()))
    for name in whole:
        ours, theirs = optimizer.state[resumed[name]], whole_optimizer.state[whole[name]]
        assert ours.keys() == theirs.keys()
        assert all(same(ours[key], theirs[key]) for key in theirs)
    assert regress(resumed, optimizer, range(6, 12)) == regress(whole, whole_optimizer, range(6, 12))
    assert all_same(resumed, whole)


def test_a_copied_optimizer_goes_on_alike() -> None:
    of = parameters()
    optimizer = built(of)
    regress(of, optimizer, range(3))
    twin, twins_optimizer = copy.deepcopy((of, optimizer))
    regress(of, optimizer, range(3, 6))
    regress(twin, twins_optimizer, range(3, 6))
    assert all_same(of, twin)


# ------------------------------------------------------------------------------------------------------ the choice


def test_the_plans_bits_choose_the_optimizer() -> None:
    assert type(built(parameters(), 8)) is AdamW8bit
    assert type(built(parameters(), 32)) is torch.optim.AdamW


def test_other_bits_are_refused() -> None:
    with pytest.raises(PlanError, match="state_bits: must be 8 or 32, got 16"):
        built(parameters(), 16)


# ------------------------------------------------------------------------------------------------------ the memory


def training(bits: int, wide: int = 8) -> Callable[[], Callable[[], None]]:
    """`wide` matrices of a MiB each, and one of 4 KiB."""

    def make() -> Callable[[], None]:
        with torch.device("meta"):
            model = nn.Sequential(*(nn.Linear(512, 512, bias=False) for _ in range(wide)), nn.Linear(512, 2))
        materialize(model)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        of = dict(model.named_parameters())
        optimizer = build_optimizer(attrs.evolve(WANTED, state_bits=bits), of, dict.fromkeys(of, 1e-3))

        def step() -> None:
            model(torch.ones(2, 512)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    return make


def test_the_traced_peak_is_the_measured_one() -> None:
    assert trace(training(8), device="cpu").peak.bytes == measure(training(8)).peak.bytes


def test_the_state_takes_a_quarter_and_a_step_a_few_of_the_largest_tensor_besides() -> None:
    wide, tensor = 16, 512 * 512 * 4
    eight, full = (trace(training(bits, wide), device="cpu") for bits in (8, 32))
    state = eight.peak.by_kind()["optimizer state"]
    assert state < 0.26 * full.peak.by_kind()["optimizer state"]
    assert eight.peak.bytes < 2 * wide * tensor + state + 5 * tensor  # parameters and gradients stay
    assert eight.peak.bytes < full.peak.bytes
