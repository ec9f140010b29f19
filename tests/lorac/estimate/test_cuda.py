"""What CUDA takes beside tensors, as the runtime sets it up."""

from __future__ import annotations

import os
from typing import Any

import attrs
import pytest
import torch

from lorac.estimate import cards, cuda
from lorac.estimate.trace import trace
from runtime.exactness import deterministic
from tests.lorac.plans import PROGRAM

MIB = 2**20


@pytest.mark.parametrize(
    ("config", "capability", "size"),
    [
        ("", (8, 6), 4096 * 2 + 16 * 8),
        ("", (9, 0), 4096 * 8),
        (":4096:8", (8, 6), 4096 * 8),
        (":16:8", (9, 0), 16 * 8),
        (":4096:2:16:8", (7, 5), 4096 * 2 + 16 * 8),
    ],
)
def test_a_cublas_handle_keeps_what_its_setting_says(
    config: str, capability: tuple[int, int], size: int
) -> None:
    assert cuda.cublas_workspace(capability, config) == size * 1024


def test_the_setting_that_is_reckoned_with_is_the_runtimes_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    deterministic(attrs.evolve(PROGRAM.compute, device="cuda"))

    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == cuda.RUNTIME_WORKSPACE


def test_a_traced_step_holds_a_workspace_of_the_set_size() -> None:
    def make() -> Any:
        left, right = torch.empty(4, 4), torch.empty(4, 4)
        return lambda: torch.mm(left, right)

    default, ours = (trace(make, steps=1, workspace=one).peak_bytes for one in ("", cuda.RUNTIME_WORKSPACE))

    assert ours - default == 32 * MIB - (4096 * 2 + 16 * 8) * 1024


def test_a_card_that_is_here_is_not_charged_for_this_process_s_context_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A GPU as CUDA would tell of it: 24 GiB, of which others hold 1 GiB and this process's context 0.4."""
    total, others, context = 24 * 1024 * MIB, 1024 * MIB, 400 * MIB
    properties = type("Properties", (), {"name": "NVIDIA GeForce RTX 4090", "major": 8, "minor": 9})
    properties.multi_processor_count = 128  # type: ignore[attr-defined]
    monkeypatch.setattr(cards, "_has_driver", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (total - others - context, total))
    card = cards.detected()

    assert card is not None
    tensors = card.usable - cuda.overhead(card)
    free = total - others - context
    # What is kept free is a margin of all that may be used; the context itself costs nothing more.
    assert tensors == pytest.approx(free - cards.MARGIN * (free + cuda.overhead(card)), abs=2)
