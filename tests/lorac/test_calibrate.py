"""What `lorac calibrate` measures, fits, keeps, and what is made of it later."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import torch

from lorac import calibrate, probes
from lorac.estimate import cards, compiling, roofline
from lorac.estimate.record import Call
from lorac.estimate.trace import trace
from runtime import compiled, compiler
from runtime.errors import MachineError
from tests.lorac.calling import call


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[cards.Calibration]:
    """A calibration of this very machine, in one round over few sizes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        patch.setattr(calibrate, "ROUNDS", 1)
        patch.setattr(calibrate, "LEAST_SECONDS", 0.0)
        patch.setattr(calibrate, "PEAK", (128, 128, 128))
        patch.setattr(probes, "LENGTHS", (2**10, 2**16))
        patch.setattr(probes, "FAR", 2**20)
        for name in ("PRODUCTS", "CONVOLUTIONS", "ATTENTIONS"):
            patch.setattr(probes, name, getattr(probes, name)[:3])
        patch.setattr(compiled, "BACKEND", "aot_eager")  # takes blocks apart, and makes no code
        patch.setattr(compiling, "LENGTH", 16)
        patch.setattr(compiling, "BLOCKS", 2)
        patch.setattr(compiler, "version", lambda: "g++ 12.2.0")
        found = calibrate.calibrate("cpu", 1)
        calibrate.keep(found)
        yield found


def timed(seconds: float, flops: int = 0, size: int = 0, rows: int = 0, cells: int = 0) -> calibrate.Timed:
    of = Call("mm", "", "forward", "float32", flops, size, rows, cells)
    return calibrate.Timed(of, lambda: None, [seconds])


def test_a_line_is_found_again_from_calls_that_follow_it() -> None:
    sizes = itertools.product((10**6, 10**8, 10**9), (10**4, 10**6, 10**7))
    line = calibrate.line([timed(5e-6 + 1e-11 * flops + 2e-10 * size, flops, size) for flops, size in sizes])
    assert (line.start, line.per_flop, line.per_byte) == pytest.approx((5e-6, 1e-11, 2e-10))


def test_nothing_on_a_line_is_below_zero_though_calls_get_faster_with_bytes() -> None:
    line = calibrate.line([timed(1e-4 / size, 10**6, size) for size in (1, 10, 100)])
    assert min(line.start, line.per_flop, line.per_byte, line.per_row, line.per_cell) >= 0


def test_calls_of_the_same_bytes_are_one_point_of_a_curve() -> None:
    curve = calibrate.curve([timed(2e-6, size=64), timed(1e-6, size=8), timed(4e-6, size=64)])
    assert curve == cards.Curve((8, 64), (1e-6, pytest.approx(3e-6)))


def test_every_figure_of_a_measured_machine_is_more_than_nothing(kept: cards.Calibration) -> None:
    assert min(kept.bandwidth, kept.fp32, kept.bf16 or 0, kept.fp16 or 0) > 0
    for curves in kept.measured.moving.values():
        assert all(seconds > 0 for curve in curves.values() for seconds in curve.seconds)
    for lines in kept.measured.computing.values():
        assert set(lines) == {"float32", "bfloat16"}
        assert all(line.at(probe) > 0 for line in lines.values() for probe in line.probes)
    assert set(kept.measured.launch) == {"forward", "backward", "recompute", "optimizer"}


def test_what_compiling_takes_and_saves_is_measured(kept: cards.Calibration) -> None:
    found = kept.measured.compiling
    assert found is not None
    assert min(found.start, found.call) >= 0
    assert found.saved >= 0


def test_what_compiled_blocks_save_is_by_what_lies_between_their_products() -> None:
    card = cards.cpu()
    one = Call("add", "", "forward", "bfloat16", 0, 10**8)
    between = roofline.of_call(one, card)
    calls = (one, one, Call("mm", "", "forward", "bfloat16", 10**9, 8))
    found = compiling.compiling(calls, card, (30.0, 12.0), saved=1.5 * between)
    graph = len(calls) / compiling.BLOCKS
    assert (found.start, found.call, found.saved) == (18.0, 12.0 / graph, pytest.approx(0.75))
    slower = compiling.compiling(calls, card, (1.0, 12.0), saved=-1.0)
    assert (slower.start, slower.saved) == (0, 0)


def test_what_is_kept_is_read_back_by_the_card(kept: cards.Calibration) -> None:
    assert cards.calibration() == kept
    card = cards.find("cpu")
    assert (card.measured, card.fp32, card.launch) == (kept.measured, kept.fp32, kept.launch)


def test_a_traced_step_takes_longer_the_more_it_has_to_do(kept: cards.Calibration) -> None:
    def step_of(size: int) -> list[Call]:
        def make():
            model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.GELU(), torch.nn.Linear(256, 64))
            batch = torch.zeros(size, 64)
            return lambda: model(batch).sum().backward()

        return list(trace(make, steps=1, device="cpu").calls)

    card = cards.find("cpu")
    few, many = (roofline.seconds(step_of(size), card) for size in (16, 16384))
    assert 0 < few < many


def test_the_figures_are_shown_with_their_units_and_where_they_are(kept: cards.Calibration) -> None:
    shown = calibrate.show(kept, Path("cpu.json"), 80)
    for words in (
        "matrix product, fp32",
        "GFLOP/s",
        "GB/s",
        "launch, backward",
        "µs",
        "compiling",
        "wrote cpu.json",
    ):
        assert words in shown
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("deterministic", [False, True])
def test_torch_is_left_as_it_was(
    deterministic: bool, kept: cards.Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrate, "works", lambda dtype, device: iter(()))
    before, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    torch.use_deterministic_algorithms(deterministic)
    try:
        with pytest.raises(KeyError):  # nothing was timed, so there is no sum to take the bandwidth from
            calibrate.calibrate("cpu", threads + 1)
        assert torch.are_deterministic_algorithms_enabled() is deterministic
    finally:
        torch.use_deterministic_algorithms(before)
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()


def test_a_damaged_calibration_ends_in_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path = cards.calibration_path()
    path.parent.mkdir()
    for text in ("{", json.dumps({"bandwidth": 1e9}), json.dumps([1])):
        path.write_text(text)
        with pytest.raises(MachineError) as failure:
            cards.find("cpu")
        assert failure.value.lines()[1] == "hint: run lorac calibrate again"


def test_each_device_has_its_own_file() -> None:
    names = ("cpu", "NVIDIA GeForce RTX 3060", "NVIDIA H200")
    paths = [cards.calibration_path(name).name for name in names]
    assert paths == ["cpu.json", "nvidia-geforce-rtx-3060.json", "nvidia-h200.json"]


def test_a_card_without_figures_of_its_own_stays_as_it_is(kept: cards.Calibration) -> None:
    card = cards.find("12GB")
    assert cards.calibrated(card, None) == card
    faster = cards.calibrated(card, attrs.evolve(kept, bandwidth=2 * card.bandwidth))
    assert (faster.bandwidth, faster.memory, faster.measured) == (
        2 * card.bandwidth,
        card.memory,
        kept.measured,
    )


def test_a_number_of_threads_below_one_is_refused(tmp_path: Path) -> None:
    said = call("calibrate", "--threads", "0")
    assert said.code == 2
