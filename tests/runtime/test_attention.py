"""Attention in slices is the same attention."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from runtime.attention import Sliced, slice_blocks, sliced


def tensors(queries: int, keys: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(queries * 100 + keys)
    lengths = (queries, keys, keys)
    return [
        torch.randn(2, 3, length, 8, generator=generator, dtype=torch.float64, requires_grad=True)
        for length in lengths
    ]


def gradients(out: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
    weights = torch.arange(out.numel(), dtype=out.dtype).reshape(out.shape).sin()
    return torch.autograd.grad((out * weights).sum(), inputs)


@pytest.mark.parametrize("slices", [1, 2, 3, 64])
@pytest.mark.parametrize(("queries", "keys"), [(12, 12), (7, 5), (1, 9)])
def test_slices_give_the_whole_and_its_gradients(slices: int, queries: int, keys: int) -> None:
    inputs = tensors(queries, keys)

    whole = F.scaled_dot_product_attention(*inputs)
    parts = sliced(slices, *inputs)

    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(gradients(parts, inputs), gradients(whole, inputs))


@pytest.mark.parametrize("slices", [2, 5])
def test_a_causal_mask_holds_in_every_slice(slices: int) -> None:
    inputs = tensors(11, 11)

    whole = F.scaled_dot_product_attention(*inputs, is_causal=True)
    parts = sliced(slices, *inputs, is_causal=True)

    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(gradients(parts, inputs), gradients(whole, inputs))


@pytest.mark.parametrize("shape", [(11, 11), (1, 11), (2, 1, 11, 11)])
def test_a_mask_is_sliced_with_its_queries(shape: tuple[int, ...]) -> None:
    inputs = tensors(11, 11)
    mask = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    torch.testing.assert_close(
        sliced(4, *inputs, attn_mask=mask), F.scaled_dot_product_attention(*inputs, attn_mask=mask)
    )


def test_only_the_blocks_named_are_sliced() -> None:
    calls = []

    class Attends(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(any(isinstance(mode, Sliced) for mode in _modes()))
            return F.scaled_dot_product_attention(x, x, x)

    first, second = Attends(), Attends()
    slice_blocks([first], 2)
    x = torch.randn(1, 4, 8)

    torch.testing.assert_close(first(x), second(x))
    assert calls == [True, False]


def _modes() -> list[object]:
    from torch.overrides import _get_current_function_mode_stack

    return list(_get_current_function_mode_stack())
