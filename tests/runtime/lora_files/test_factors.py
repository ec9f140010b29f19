"""Norms, sums and cuts from the factors against the whole matrices."""

from __future__ import annotations

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from runtime.lora_files.adapter import Update
from runtime.lora_files.factors import (
    change,
    concatenated,
    norm,
    pair,
    rank_for,
    singular_values,
    spectrum,
    truncated,
)
from tests.runtime.lora_files.cases import matrices

SIDES = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 16))


def product(out: int, inner: int, rank: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    a, b = matrices((out, inner), rank, seed, size=1.0)
    return b, a


def update(alpha: float | None = None, **parts: Tensor) -> Update:
    return Update(component="unet", prefix="x", parts=parts, names={p: f"x.{p}" for p in parts}, alpha=alpha)


@settings(max_examples=50, deadline=None)
@given(sides=SIDES)
def test_singular_values_are_those_of_the_whole_matrix(sides: tuple[int, int, int]) -> None:
    b, a = product(*sides)
    dense = torch.linalg.svdvals((b @ a).double())
    found = singular_values(b, a)

    assert torch.allclose(found, dense[: len(found)], atol=1e-4)
    assert bool((dense[len(found) :] < 1e-4).all())
    assert norm(b, a) == pytest.approx((b @ a).norm().item(), rel=1e-4)


@settings(max_examples=50, deadline=None)
@given(sides=SIDES)
def test_a_cut_is_as_near_as_its_energy_says_and_nearer_with_every_rank(sides: tuple[int, int, int]) -> None:
    b, a = product(*sides)
    whole = (b @ a).double()
    before = -1.0
    for rank in range(1, min(sides) + 1):
        cut = truncated(b, a, rank)
        off = (cut.b.double() @ cut.a.double() - whole).square().sum().item()
        assert cut.b.shape[1] == cut.a.shape[0] == rank
        assert off == pytest.approx(cut.lost, abs=1e-4 * cut.whole)
        assert cut.energy >= before - 1e-12
        before = cut.energy
    assert before == pytest.approx(1.0, abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(sides=SIDES, energy=st.floats(0.01, 1.0))
def test_the_rank_for_an_energy_is_the_lowest_that_keeps_it(
    sides: tuple[int, int, int], energy: float
) -> None:
    b, a = product(*sides)
    rank = rank_for(singular_values(b, a), energy)

    assert truncated(b, a, rank).energy >= energy - 1e-9
    if rank > 1:
        assert truncated(b, a, rank - 1).energy < energy


def test_ranks_side_by_side_are_the_sum() -> None:
    pairs = [product(6, 9, rank, rank) for rank in (1, 3, 8)]
    b, a = concatenated(pairs)

    assert b.shape[1] == 12
    assert torch.allclose(b @ a, sum((b @ a for b, a in pairs), torch.zeros(6, 9)), atol=1e-5)


def test_a_zero_update_has_no_norm_and_full_energy() -> None:
    b, a = torch.zeros(4, 2), torch.ones(2, 3)

    assert norm(b, a) == 0 and truncated(b, a, 1).energy == 1 and rank_for(singular_values(b, a), 0.9) == 1


# ------------------------------------------------------------------------------------------------- other methods


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_convolution_s_tucker_core_goes_into_the_lower_factor(kernel: int) -> None:
    generator = torch.Generator().manual_seed(1)
    down, mid = (torch.randn(s, generator=generator) for s in ((3, 5, 1, 1), (3, 3, kernel, kernel)))
    up = torch.randn(7, 3, 1, 1, generator=generator)
    layers = [
        nn.Conv2d(5, 3, 1, bias=False),
        nn.Conv2d(3, 3, kernel, bias=False),
        nn.Conv2d(3, 7, 1, bias=False),
    ]
    for layer, weight in zip(layers, (down, mid, up), strict=True):
        layer.weight.data = weight
    picture = torch.randn(1, 5, 6, 6, generator=generator)

    found = change(update(down=down, mid=mid, up=up, alpha=6.0), (7, 5, kernel, kernel))

    assert found is not None
    expected = 2 * nn.Sequential(*layers)(picture)
    assert torch.allclose(nn.functional.conv2d(picture, found), expected, atol=1e-4)


def trained(kind: str, shape: tuple[int, int], rank: int = 3, alpha: float = 6.0) -> tuple[Update, Tensor]:
    """PEFT's own layer of that method, its parameters at random, and its own product."""
    configs = {"LoHa": peft.LoHaConfig, "LoKr": peft.LoKrConfig}
    config = configs[kind](r=rank, alpha=alpha, target_modules=["0"], init_weights=False)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = peft.get_peft_model(nn.Sequential(nn.Linear(shape[1], shape[0], bias=False)), config)
    layer = model.base_model.model[0]
    parts = {
        name.split(".")[-2]: parameter.detach()
        for name, parameter in layer.named_parameters()
        if "hada" in name or "lokr" in name
    }
    return update(alpha=alpha, **parts), layer.get_delta_weight("default").detach()


@pytest.mark.parametrize("kind", ["LoHa", "LoKr"])
@pytest.mark.parametrize("shape", [(12, 8), (64, 48)])
def test_other_methods_change_a_weight_as_peft_says(kind: str, shape: tuple[int, int]) -> None:
    made, expected = trained(kind, shape)

    if kind == "LoKr" and not made.rank:
        expected = (
            expected / 2
        )  # of two whole matrices PEFT multiplies alpha / rank in, LyCORIS and its readers do not
    found, sigma = change(made, shape), spectrum(made)

    assert made.method == kind and found is not None and sigma is not None
    assert torch.allclose(found, expected, atol=1e-5)
    dense = torch.linalg.svdvals(expected.double())
    length = min(len(dense), len(sigma))
    assert torch.allclose(sigma[:length], dense[:length], atol=1e-4)


def test_loha_is_a_product_of_two_matrices_and_lokr_none() -> None:
    loha, lokr = (trained(kind, (12, 8))[0] for kind in ("LoHa", "LoKr"))

    assert pair(loha) is not None and pair(lokr) is None


def test_what_needs_the_base_or_does_not_fit_has_no_change() -> None:
    down, up = torch.ones(2, 4), torch.ones(3, 2)

    assert change(update(down=down, up=up, magnitude=torch.ones(1, 4)), (3, 4)) is None
    assert change(update(down=down, up=up), (3, 5)) is None
    assert change(update(down=down), (3, 4)) is None
    assert change(update(lokr_w1=down, lokr_w2=up, lokr_t2=up), (6, 8)) is None


def test_webui_s_own_scale_goes_before_alpha() -> None:
    down, up = torch.ones(2, 4), torch.ones(3, 2)

    found = change(update(down=down, up=up, scale=torch.tensor(0.25), alpha=8.0), (3, 4))

    assert found is not None and bool((found == 0.5).all())
