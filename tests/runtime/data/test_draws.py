"""Draws: functions of (seed, step, sample) and of nothing else."""

from __future__ import annotations

import numpy as np
import torch

from runtime.data import draws


def test_one_sample_and_many_have_the_same_keys():
    keys = draws.sample_keys(9, 4, np.arange(100, dtype=np.uint64))

    assert [int(key) for key in keys] == [draws.sample_key(9, 4, sample) for sample in range(100)]


def test_keys_differ_in_each_argument():
    keys = {draws.sample_key(a, b, c) for a in range(20) for b in range(20) for c in range(20)}

    assert len(keys) == 20**3


def test_uniform_numbers_are_uniform():
    numbers = draws.uniform(draws.sample_keys(1, 0, np.arange(20_000, dtype=np.uint64)), draws.FLIP)

    counts, _ = np.histogram(numbers, bins=20, range=(0, 1))
    assert counts.sum() == 20_000
    assert np.abs(counts - 1000).max() < 150


def test_the_generator_gives_the_same_noise_for_the_same_key():
    key = draws.sample_key(1, 2, 3)
    noise = torch.randn(64, generator=draws.generator(key))

    assert torch.equal(noise, torch.randn(64, generator=draws.generator(key)))
    assert not torch.equal(noise, torch.randn(64, generator=draws.generator(key + 1)))
