"""Whatever of the GPU's validation needs no GPU: its grid, its predictions, its rows and its report."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import attrs
import cattrs
import pytest
import torch

from lorac.estimate import cards, cuda, phases
from lorac.estimate.trace import measure
from runtime import plan
from runtime.families import inspect
from runtime.safeio import digest
from tests.validate import gpu
from tests.validate.gpu_case import (
    FULL,
    Case,
    Predicted,
    Shapes,
    blocks,
    grid,
    predict,
    program,
    real_step,
)
from tests.validate.gpu_measure import Measured, of_recording
from tests.validate.gpu_report import Report, Row, broken, page

CARD = cards.find("rtx4090")
SD1 = Case(
    model="sd1",
    rank=4,
    micro_batch=2,
    length=64,
    checkpointing="some",
    dtype="fp32",
    text_encoder=True,
)
LLAMA = Case(model="llama", rank=4, micro_batch=2, length=32, checkpointing="none", dtype="fp32")
SMALL_LLAMA = {
    "vocab_size": 500,
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
MACHINE = {"device": "NVIDIA GeForce RTX 4090", "driver": "580.65.06", "torch": "2.14.1"}
NO_GPU = not torch.cuda.is_available()


@pytest.fixture(scope="module")
def tiny(tiny_base: Path) -> Shapes:
    found = inspect.inspect(tiny_base, digest.sha256_file).base.architecture
    return {"sd1": found, "llama": SMALL_LLAMA}


# ----------------------------------------------------------------------------------------------------------- cases


def test_the_grid_has_every_case_once_and_each_has_a_name_of_its_own() -> None:
    cases = grid()
    assert len(cases) == len(set(cases)) == len({str(case) for case in cases}) == 288 + 28 + 32
    plain = [case for case in cases if case == held_in_full(case)]
    assert len(plain) == 288 + 32
    for field, values in {
        "rank": 2,
        "micro_batch": 4,
        "checkpointing": 3,
        "dtype": 3,
        "text_encoder": 2,
    }.items():
        counts = Counter(getattr(case, field) for case in plain if case.model == "sd1")
        assert set(counts.values()) == {288 // values}, field


def held_in_full(case: Case) -> Case:
    """The case with nothing in fewer bits, away or sliced."""
    return attrs.evolve(case, quantization="none", state_bits=32, offloaded="none", slices=1)


def test_any_beginning_of_the_grid_is_a_mixture_and_the_order_is_always_the_same() -> None:
    begun = grid()[:60]
    assert begun == grid()[:60]
    for field in attrs.fields_dict(Case):
        assert {getattr(case, field) for case in begun} == {getattr(case, field) for case in grid()}, field


def test_a_case_is_a_program_that_a_plan_may_hold(tiny: Shapes) -> None:
    of = program(SD1, tiny["sd1"])
    assert plan.structure(plan.unstructure(of), plan.Program, "case") == of
    assert set(of.adapter.targets) == {"unet", "text_encoder"}
    assert set(program(attrs.evolve(SD1, text_encoder=False), tiny["sd1"]).adapter.targets) == {"unet"}


def test_some_is_every_other_block_of_all(tiny: Shapes) -> None:
    names = {how: blocks(SD1, how, tiny["sd1"]) for how in ("none", "some", "all")}
    assert (names["none"], names["some"]) == ((), names["all"][::2])
    assert len(names["all"]) > 10


@pytest.mark.parametrize("case", [SD1, LLAMA], ids=["sd1", "llama"])
def test_a_case_is_predicted_without_a_gpu(case: Case, tiny: Shapes, cache: Path) -> None:
    said = predict(case, CARD, cache, tiny)
    larger = predict(attrs.evolve(case, micro_batch=4), CARD, cache, tiny)

    assert 0 < said.allocated <= said.reserved
    assert said.total == said.reserved + cuda.overhead(CARD)
    assert larger.allocated > said.allocated
    assert larger.seconds >= said.seconds > 0


@pytest.mark.parametrize("case", [SD1, LLAMA], ids=["sd1", "llama"])
def test_the_step_on_real_tensors_trains_and_stays_finite(case: Case, tiny: Shapes) -> None:
    torch.manual_seed(0)
    step = real_step(case, "cpu", tiny)
    held = {id(one): one for one in owned(step)}
    before = {key: one.detach().clone() for key, one in held.items()}
    for _ in range(2):
        step()
    moved = [key for key, one in held.items() if not torch.equal(one, before[key])]

    assert len(moved) == len(held) > 0
    assert all(torch.isfinite(one).all() for one in held.values())


def owned(step: object) -> list[torch.nn.Parameter]:
    """The parameters that the step's optimizer moves."""
    inside = {
        name: cell.cell_contents
        for name, cell in zip(step.__code__.co_freevars, step.__closure__, strict=True)  # type: ignore[attr-defined]
    }
    optimizer = inside["trainee"].optimizer if "trainee" in inside else inside["optimizer"]
    return [one for group in optimizer.param_groups for one in group["params"]]


def test_the_step_that_is_measured_takes_what_the_step_that_is_predicted_does(tiny: Shapes) -> None:
    """On the CPU, where both can be had."""
    of = program(SD1, tiny["sd1"])
    on_cpu = attrs.evolve(of, compute=attrs.evolve(of.compute, device="cpu", threads=1))
    traced = phases.training(on_cpu, (0, 0), whole=True).peak.bytes
    measured = measure(lambda: real_step(SD1, "cpu", tiny), steps=2).peak.bytes

    assert traced == measured


# ----------------------------------------------------------------------------------------------------------- rows


def figures(total: int, seconds: float = 0.25) -> Measured:
    """A measured row whose whole card's share is `total` bytes."""
    return Measured(
        allocated=total - 700_000_000,
        reserved=total - 500_000_000,
        total=total,
        seconds=seconds,
        recorded_allocated=total - 700_000_000,
        recorded_reserved=total - 500_000_000,
        replayed_allocated=total - 700_000_000,
        replayed_reserved=total - 510_000_000,
        requests=12345,
        is_comparable=True,
    )


def row(case: Case, total: int, measured: Measured | None, **fields: object) -> Row:
    """A row that was predicted to take `total` bytes."""
    said = Predicted(allocated=total - 700_000_000, reserved=total - 500_000_000, total=total, seconds=0.2)
    outcome = "done" if measured else "out of memory"
    return Row(**{"case": case, "predicted": said, "outcome": outcome, "measured": measured, **fields})  # type: ignore[arg-type]


def report(*rows: Row) -> Report:
    return Report(command=gpu.COMMAND, machine=MACHINE, card=CARD, grid=320, rows=rows)


GOOD = row(SD1, 5_000_000_000, figures(4_950_000_000))


def test_the_report_names_the_machine_and_has_each_figures_errors_and_each_case() -> None:
    other = row(LLAMA, 4_000_000_000, figures(4_040_000_000))
    text = page(report(GOOD, other))

    assert (
        f"Made by `{gpu.COMMAND}` on one NVIDIA GeForce RTX 4090, driver 580.65.06, with\ntorch 2.14.1;"
        in text
    )
    assert "2 of the grid's 320 cases were measured" in text
    assert "| total | 2 | 1.00% | 1.01% | 0.99% |" in text
    assert "| seconds a step | 2 | 20.00% | 20.00% | 20.00% |" in text
    assert "| sd1, fp32, some recomputed | 1 | +1.18% | +1.12% | +1.01% | -20.00% |" in text
    assert f"| {SD1} | 4.300 / 4.250 (+1.2%) | 4.500 / 4.450 (+1.1%) | 5.000 / 4.950 (+1.0%) |" in text
    assert text.count("None.\n") == 2


def test_running_out_of_memory_counts_against_a_plan_only_where_it_said_that_it_fits() -> None:
    fitting = row(SD1, CARD.usable, None)
    too_large = row(LLAMA, CARD.usable + 1, None)

    assert [line.split(":")[0] for line in broken(report(GOOD, fitting, too_large))] == [str(SD1)]
    assert f"- {LLAMA}: predicted " in page(report(too_large))


def test_taking_more_than_was_said_counts_only_beyond_the_planners_margin() -> None:
    within = row(SD1, 9_710_000_000, figures(10_000_000_000))
    beyond = row(LLAMA, 9_690_000_000, figures(10_000_000_000))

    assert broken(report(within, beyond)) == [f"{LLAMA}: said to take 9.690 GB, took 10.000 GB"]


def test_a_report_without_a_figure_still_says_how_each_case_ended() -> None:
    text = page(report(row(SD1, 10**9, None, outcome="failed", said="took longer than 300 s")))
    assert f"- {SD1}: predicted 1.000 GB; failed (took longer than 300 s)" in text
    assert "| total | 0 | | | |" in text


def test_a_recording_that_the_allocators_model_cannot_be_held_to_gives_it_no_figure() -> None:
    apart = attrs.evolve(figures(4 * 10**9), is_comparable=False)
    text = page(report(GOOD, row(LLAMA, 4 * 10**9, apart)))

    assert "| total | 2 |" in text
    assert "| allocator alone, reserved | 1 | 0.22% | 0.22% | 0.22% |" in text
    assert text.count("| -0.22% |") == 1


def test_a_recording_is_comparable_if_its_segments_add_up_and_it_is_of_one_stream() -> None:
    first = {"action": "segment_alloc", "addr": 0, "size": 2**21, "stream": 0}
    second = {"action": "alloc", "addr": 0, "size": 700, "stream": 0}
    elsewhere = {"action": "alloc", "addr": 1024, "size": 512, "stream": 3}

    found = of_recording([first, second], 1024, 2**21)
    assert attrs.evolve(figures(10**9), **found).is_comparable
    assert (found["replayed_allocated"], found["replayed_reserved"], found["requests"]) == (1024, 2**21, 1)
    assert not of_recording([second], 1024, 2**21)["is_comparable"]
    assert not of_recording([first, second, elsewhere], 1536, 2**21)["is_comparable"]


def test_a_report_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    before = report(GOOD, row(LLAMA, 10**9, None))
    gpu.write(before, tmp_path / "docs")
    data = json.loads((tmp_path / "docs" / "gpu.json").read_text())

    assert cattrs.structure(data, Report) == before
    assert (tmp_path / "docs" / "gpu.md").read_text() == page(before)


def test_finished_cases_are_kept_line_by_line_and_a_half_written_one_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.jsonl"
    kept = [gpu.Kept(machine=MACHINE, row=one) for one in (GOOD, row(LLAMA, 10**9, None))]
    assert gpu.read(path) == []
    gpu.append(path, kept[0])
    with path.open("a") as file:
        file.write('{"machine": {"device": "NV')
    assert gpu.read(path) == kept[:1]

    gpu.append(path, kept[1])
    assert gpu.read(path) == kept


def test_the_same_measurements_can_be_predicted_anew_without_a_gpu(tmp_path: Path) -> None:
    case = Case(model="llama", rank=8, micro_batch=1, length=512, checkpointing="all", dtype="bf16")
    gpu.write(report(row(case, 10**9, figures(10**9))), tmp_path)

    assert gpu.main(["--again", "--docs", str(tmp_path)]) == 0
    [after] = cattrs.structure(json.loads((tmp_path / "gpu.json").read_text()), Report).rows
    assert after.measured == figures(10**9)
    assert after.predicted == predict(case, CARD, tmp_path, FULL)


# ---------------------------------------------------------------------------------------------------------- endings


@pytest.mark.skipif(not NO_GPU, reason="there is a GPU here")
def test_without_a_gpu_it_says_so_in_one_line_and_ends_with_the_environments_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = gpu.main(["--docs", str(tmp_path), "--rows", str(tmp_path / "rows.jsonl")])

    assert code == 5
    assert capsys.readouterr().err == (
        "error: device: no GPU that CUDA can use is here: nothing was measured\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_predicting_anew_without_measurements_is_a_data_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gpu.main(["--again", "--docs", str(tmp_path)]) == 3
    assert "gpu.json: is not there: nothing was measured yet" in capsys.readouterr().err


@pytest.mark.skipif(not NO_GPU, reason="there is a GPU here")
def test_a_process_that_fails_leaves_its_last_words_in_the_row() -> None:
    failed = gpu.taken(LLAMA, GOOD.predicted, 0)
    assert (failed.outcome, failed.measured) == ("failed", None)
    assert "CUDA" in failed.said or "NVIDIA" in failed.said


def test_no_case_is_begun_that_would_end_after_the_time_is_up() -> None:
    assert gpu.Clock(60.0).has_room()
    assert not gpu.Clock(60.0, longest=61.0).has_room()
    assert not gpu.Clock(0.0, longest=0.1).has_room()
