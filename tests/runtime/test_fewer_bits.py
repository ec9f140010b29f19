"""A quantised base and 8-bit moments, through the whole run."""

from __future__ import annotations

import signal
from pathlib import Path

import attrs
import pytest
import torch

from lorac.estimate import phases
from runtime import plan
from runtime.errors import Interrupted
from runtime.safeio.weights import open_weights
from tests.runtime.plans import carry_out, tiny_plan


def with_bits(base: Path, data: Path, quantization: str, bits: int, **changes: object) -> plan.Plan:
    of = tiny_plan(base, data, quantization=quantization, dropout=0.1, **changes)
    train = of.program.train
    optimizer = attrs.evolve(train.optimizer, state_bits=bits)
    program = attrs.evolve(of.program, train=attrs.evolve(train, optimizer=optimizer))
    return plan.make(program, of.outputs, of.estimate)


def tensors(path: Path) -> dict[str, torch.Tensor]:
    with open_weights(path) as file:
        return {name: file.load(name) for name in file}


@pytest.mark.parametrize("bits", [8, 32])
@pytest.mark.parametrize("quantization", ["nf4", "int8", "fp8"])
def test_a_run_in_fewer_bits_goes_on_to_the_same_bytes_after_a_stop(
    tiny_base: Path, tiny_data: Path, tmp_path: Path, quantization: str, bits: int
) -> None:
    of = with_bits(tiny_base, tiny_data, quantization, bits, rank=64)

    def stop(at: int) -> None:
        if at == 2:
            signal.raise_signal(signal.SIGINT)

    whole = carry_out(of, tmp_path / "whole")
    with pytest.raises(Interrupted):
        carry_out(of, tmp_path / "stopped", stop)

    assert carry_out(of, tmp_path / "stopped").read_bytes() == whole.read_bytes()


def test_a_quantised_base_trains_something_else_than_the_base(
    tiny_base: Path, tiny_data: Path, tmp_path: Path
) -> None:
    found = {
        kind: tensors(carry_out(with_bits(tiny_base, tiny_data, kind, 32), tmp_path / kind))
        for kind in ("none", "int8", "nf4")
    }

    for kind in ("int8", "nf4"):
        assert found[kind].keys() == found["none"].keys()
        assert any(not torch.equal(found[kind][name], found["none"][name]) for name in found["none"])
        assert all(torch.isfinite(tensor).all() for tensor in found[kind].values())


def test_a_base_in_fewer_bits_takes_less_in_the_trace(tiny_base: Path, tiny_data: Path) -> None:
    weights = {}
    for kind in ("none", "int8", "nf4"):
        of = with_bits(tiny_base, tiny_data, kind, 32)
        weights[kind] = phases.training(of.program, (8, 6)).peak.by_kind()["base weights"]

    # Layers this small are no larger than nf4's own table of 256 numbers, so only the base itself is compared with.
    assert max(weights["nf4"], weights["int8"]) < weights["none"]


def test_moments_of_8_bits_take_less_in_the_trace(tiny_base: Path, tiny_data: Path) -> None:
    states = {
        bits: phases.training(
            with_bits(tiny_base, tiny_data, "none", bits, rank=256).program, (8, 6)
        ).peak.by_kind()["optimizer state"]
        for bits in (8, 32)
    }

    assert states[8] < states[32] / 2
