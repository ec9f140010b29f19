"""What the benchmark of torch.compile counts."""

from __future__ import annotations

import attrs
import pytest
import torch
from torch import nn

from tests.bench.compiled.kept import RANK, Block, kept, with_lora
from tests.bench.compiled.ways import difference

ROWS, WIDTH = 6, 4


def test_what_a_block_keeps_is_neither_its_weights_nor_what_it_was_given() -> None:
    module = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU())
    with_lora(module, dropout=0.0)
    block = Block(name="toy", module=module, given=(torch.rand(ROWS, WIDTH, requires_grad=True),), named={})
    size, gradients = kept(block, module.forward)
    # The product with A, for B's gradient, and what GELU was given.
    assert size == 4 * ROWS * (RANK + WIDTH)
    assert sorted(gradients) == ["0.A", "0.B"]
    by_itself = attrs.evolve(block, given=())
    assert kept(by_itself, lambda: module(block.given[0]))[0] == size + 4 * ROWS * WIDTH


def test_gradients_are_compared_by_the_largest() -> None:
    eager = {"a": torch.tensor([1.0, -4.0]), "b": torch.tensor([0.5])}
    compiled = {"a": torch.tensor([1.0, -4.0]), "b": torch.tensor([0.7])}
    assert difference(eager, compiled) == pytest.approx(0.05)
