"""Whether torch is asked for the same bytes each time, and what is said where it cannot give them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import torch

from runtime import plan
from runtime.errors import MachineError
from runtime.exactness import deterministic, refusals
from tests import texts

CPU = plan.Compute(device="cpu", threads=1, dtype="fp32", checkpointed=())


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


def inexact() -> torch.Tensor:
    """An operator that torch has no exact form of, on a CPU either."""
    return torch.zeros(3).put_(torch.tensor([1, 1]), torch.tensor([1.0, 2.0]))


def test_a_strict_plan_stops_at_an_operator_without_an_exact_form() -> None:
    deterministic(attrs.evolve(CPU, deterministic=True))

    with pytest.raises(MachineError) as refused, refusals():
        inexact()

    assert refused.value.lines() == [
        "error: fit.deterministic: put_ has no exact form here",
        "hint: plan with Fit(deterministic=False): the last bits of a run may then differ",
    ]


def test_any_other_plan_is_warned_of_it() -> None:
    deterministic(CPU)

    with pytest.warns(UserWarning, match="does not have a deterministic implementation"), refusals():
        inexact()


def test_another_failure_is_not_taken_for_it() -> None:
    with pytest.raises(RuntimeError, match="other"), refusals():
        raise RuntimeError("other")


@pytest.mark.parametrize(("strict", "value"), [(True, "yes"), (False, "up to the last bits")])
def test_a_plan_for_a_card_says_whether_its_bytes_come_out_again(
    tiny_lm: Path, tiny_text: Path, tmp_path: Path, strict: bool, value: str
) -> None:
    of = texts.planned(tiny_lm, tiny_text, tmp_path, card="12GB", deterministic=strict)

    assert of.program.compute.deterministic is strict
    assert [one.value for one in of.estimate.decisions if one.field == "same bytes"] == [value]


def test_a_plan_for_a_cpu_promises_it_without_a_word(tiny_lm: Path, tiny_text: Path, tmp_path: Path) -> None:
    of = texts.planned(tiny_lm, tiny_text, tmp_path)

    assert not [one for one in of.estimate.decisions if one.field == "same bytes"]
