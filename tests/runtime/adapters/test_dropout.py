"""Dropout on what an adapter reads: what its mask depends on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from runtime.adapters.dropout import SampleDropout

WIDTH, LONGEST = 8, 32


def dropped(x: Tensor, keys: list[int], length: int = LONGEST) -> Tensor:
    """What is kept of x, as it is scaled."""
    module = SampleDropout(0.5, "layer").train()
    module.length = length
    module.aim(keys, {})
    return module(x)


def test_neither_padding_nor_the_other_samples_change_a_sample_s_mask() -> None:
    alone = dropped(torch.ones(1, 6, WIDTH), [3])
    among = dropped(torch.ones(2, 9, WIDTH), [8, 3])

    assert torch.equal(alone[0], among[1, :6])
    assert not torch.equal(among[0, :6], among[1, :6])
    assert set(among.unique().tolist()) == {0.0, 2.0}


def test_a_mask_is_drawn_for_the_plan_s_longest_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card's generator gives other numbers where it is asked for more of them; a CPU's happens not to."""
    shapes: list[tuple[int, ...]] = []
    own: Callable[..., Tensor] = Tensor.bernoulli_

    def counted(tensor: Tensor, *args: Any, **named: Any) -> Tensor:
        shapes.append(tuple(tensor.shape))
        return own(tensor, *args, **named)

    monkeypatch.setattr(Tensor, "bernoulli_", counted)
    for tokens in (6, 9):
        dropped(torch.ones(1, tokens, WIDTH), [3])
    assert shapes == [(LONGEST, WIDTH)] * 2


def test_a_mixture_s_tokens_end_to_end_are_masked_as_their_samples_are() -> None:
    apart = dropped(torch.ones(2, 6, WIDTH), [8, 3])
    assert torch.equal(dropped(torch.ones(12, WIDTH), [8, 3]), apart.flatten(0, 1))


def test_what_is_not_of_tokens_is_masked_as_it_is() -> None:
    found = dropped(torch.ones(2, 3, 4, 4), [8, 3], length=0)
    assert found.shape == (2, 3, 4, 4)
    assert not torch.equal(found[0], found[1])
