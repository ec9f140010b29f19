"""Noise on token embeddings: its size, and what it depends on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from runtime.adapters import noise
from runtime.adapters.dropout import aim

ALPHA, WIDTH, LONGEST = 5.0, 16, 64


def noises(positions: list[list[int]], keys: list[int], training: bool = True) -> Tensor:
    """What is added to the embeddings of a batch with these positions."""
    embedding = nn.Embedding(10, WIDTH).train(training)
    added = noise.put_on(embedding, ALPHA, LONGEST)
    ids = torch.zeros(len(positions), len(positions[0]), dtype=torch.long)
    aim([added], keys, {"position_ids": torch.tensor(positions)})
    return (embedding(ids) - embedding.weight[0]).detach()


def test_its_bound_is_that_of_the_sample_s_length_packed_or_padded() -> None:
    packed = [*range(40), *range(4), *range(20)]
    found = noises([packed], [7])[0]

    for part, length in ((found[:40], 40), (found[40:44], 4), (found[44:], 20)):
        bound = ALPHA / (length * WIDTH) ** 0.5
        assert part.abs().max() <= bound * (1 + 1e-5)
        assert part.abs().mean() > 0.4 * bound  # of a uniform one: half


def test_neither_padding_nor_the_other_samples_change_a_sample_s_noise() -> None:
    alone = noises([[*range(6)]], [3])
    among = noises([[*range(9)], [*range(6), *range(3)]], [8, 3])

    assert torch.allclose(alone[0], among[1, :6], atol=1e-6)
    assert not torch.allclose(among[0, :6], among[1, :6])


def test_no_keys_or_no_training_is_no_noise() -> None:
    assert not noises([[0, 1]], []).any()
    assert not noises([[0, 1]], [3], training=False).any()
