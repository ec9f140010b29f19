"""The times at which a held-out picture is measured: even ones, in whatever a family draws from."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runtime import plan
from runtime.data import draws, levels
from runtime.families import FAMILIES, family
from runtime.families.protocol import Batch

PICTURES = [name for name in FAMILIES if family(name).KIND == "images"]
LATENT = {"latent_mean": torch.zeros(16, 8, 8), "latent_std": torch.ones(16, 8, 8)}
ITEM = plan.Item(path="a.png", sha256="ab" * 32, width=64, height=64, caption="", repeats=1, bucket=(64, 64))


def drawn(name: str, key: int) -> Batch:
    of = family(name)
    return of.draw(LATENT, draws.generator(key), plan.Objective(**of.OBJECTIVE))


@pytest.mark.parametrize("name", PICTURES)
def test_every_family_is_measured_over_the_whole_range_of_what_it_trains_on(name: str) -> None:
    times = [levels.time(drawn(name, key)) for key in levels.keys(ITEM, partial(drawn, name))]
    trained = sorted(levels.time(drawn(name, key)) for key in range(400))
    shares = [sum(one < time for one in trained) / len(trained) for time in times]

    assert len(set(times)) == levels.LEVELS and times == sorted(times)
    assert all(abs(share - (at + 0.5) / levels.LEVELS) < 0.17 for at, share in enumerate(shares))


@given(st.lists(st.floats(0, 1), min_size=8, max_size=64), st.integers(1, 8))
def test_spread_takes_one_of_each_equal_part(times: list[float], count: int) -> None:
    found = levels.spread(times, count)
    part = len(times) // count

    assert [sorted(times)[level * part + part // 2] for level in range(count)] == [times[at] for at in found]
    assert len(set(found)) == count
