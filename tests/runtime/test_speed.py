"""How fast a run is, in words."""

from __future__ import annotations

import pytest

from runtime.train import speed


@pytest.mark.parametrize(
    ("rate", "said"), [(3.333, "3.33 it/s"), (1.0, "1.00 it/s"), (0.04, "25.00 s/it"), (0.0, "0.00 it/s")]
)
def test_less_than_a_step_a_second_is_told_in_seconds_a_step(rate: float, said: str) -> None:
    assert speed(rate) == said
