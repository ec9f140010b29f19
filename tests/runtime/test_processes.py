"""Several processes (gloo, on the CPU) train what one does; killed and gone on, they train the very same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import torch
from torch import Tensor

from lorac import Answers
from runtime import checkpoint, plan, preflight
from runtime.errors import MachineError
from runtime.safeio.weights import open_weights
from tests import texts
from tests.runtime import plans

ROOT = Path(__file__).parents[2]
LANGUAGE, PICTURES = "adapter_model.safetensors", "tiny.safetensors"


def start(
    of: plan.Plan, folder: Path, cache: Path, fault: str = "", search: tuple[Path, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Carry a plan out in `folder` as `lorac run` does: the runtime starts the plan's processes itself."""
    folder.mkdir(exist_ok=True)
    plan.write(of, folder / "plan.json")
    command = [sys.executable, "-m", "runtime", "plan.json", "--output=tiny", "--log=tiny/logs"]
    path = os.pathsep.join(map(str, (ROOT, *search)))
    environment = {**os.environ, "PYTHONPATH": path, "LORAC_CACHE": str(cache), "LORAC_FAULT": fault}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False
    )


def alone(of: plan.Plan) -> plan.Plan:
    """The same plan for one process with that much more accumulation."""
    train = of.program.train
    train = attrs.evolve(train, processes=1, accumulation=train.accumulation * train.processes, fallbacks=())
    compute = attrs.evolve(of.program.compute, sharded=())
    return plan.make(attrs.evolve(of.program, train=train, compute=compute), of.outputs, of.estimate)


@pytest.fixture(scope="module")
def of(tiny_lm: Path, tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> plan.Plan:
    return texts.planned(
        tiny_lm,
        tiny_text,
        tmp_path_factory.mktemp("planned"),
        held_out=0.2,
        dropout=0.1,
        micro_batch=1,
        accumulation=2,
        processes=2,
    )


@pytest.fixture(scope="module")
def through(of: plan.Plan, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two processes that nothing disturbed."""
    folder = tmp_path_factory.mktemp("through")
    done = start(of, folder, cache)
    assert (done.returncode, done.stderr) == (0, "")
    (folder / "said.txt").write_text(done.stdout, encoding="utf-8")
    return folder / "tiny"


@pytest.fixture(scope="module")
def split(tiny_lm: Path, tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> plan.Plan:
    """The base's blocks are split; what is held out gets worse after two steps, and the run ends after four.

    Neither a step's micro-batches nor what is held out can be dealt evenly.
    """
    planned = texts.planned(
        tiny_lm,
        tiny_text,
        tmp_path_factory.mktemp("split"),
        held_out=0.2,
        dropout=0.1,
        learning_rate=0.1,
        micro_batch=1,
        accumulation=2,
        processes=2,
        shard=True,
        samples=Answers(prompts=("Say 3",), max_tokens=4),
    )
    evaluation = attrs.evolve(planned.program.evaluation, patience=1)
    return plan.make(attrs.evolve(planned.program, evaluation=evaluation), planned.outputs, planned.estimate)


@pytest.fixture(scope="module")
def split_through(split: plan.Plan, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of it that nothing disturbed."""
    folder = tmp_path_factory.mktemp("split_through")
    done = start(split, folder, cache)
    assert (done.returncode, done.stderr) == (0, "")
    return folder / "tiny"


def test_two_processes_train_and_measure_what_one_does(
    of: plan.Plan, through: Path, cache: Path, tmp_path: Path
) -> None:
    one = texts.carry_out(alone(of), texts.where(alone(of), tmp_path, cache))

    _assert_close(through / LANGUAGE, one)
    ours, theirs = (
        checkpoint.receipt(checkpoint.whole(folder / "checkpoints")[-1]).state.held_out
        for folder in (through, one.parent)
    )
    assert ours["0"] == theirs["0"]
    assert ours["6"].loss == pytest.approx(theirs["6"].loss, rel=1e-4)


def test_only_one_process_writes_and_speaks(through: Path) -> None:
    steps = [json.loads(line) for line in (through / "logs/metrics.jsonl").read_text().splitlines()]
    said = (through.parent / "said.txt").read_text(encoding="utf-8")

    assert [line["step"] for line in steps if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert said.count("Saved tiny/checkpoints/step-000006") == 1
    assert "Using device: cpu" in said
    assert "× 2 processes" in said


def test_a_process_that_is_done_is_not_ended_by_its_threads(
    of: plan.Plan, cache: Path, tmp_path: Path
) -> None:
    """As gloo's threads may when Python takes itself apart."""
    (tmp_path / "sitecustomize.py").write_text(
        'import atexit, os\nif "RANK" in os.environ:\n    atexit.register(os.abort)\n', encoding="utf-8"
    )

    done = start(of, tmp_path, cache, search=(tmp_path,))

    assert (done.returncode, done.stderr) == (0, "")


def test_a_lost_process_stops_the_run_and_the_same_command_goes_on_to_the_same_bytes(
    of: plan.Plan, through: Path, cache: Path, tmp_path: Path
) -> None:
    stopped = start(of, tmp_path, cache, fault="kill@3/1")

    assert stopped.returncode == MachineError.exit_code
    assert "error: process 1 of 2 was ended by SIGKILL" in stopped.stderr
    assert "hint: run the same command again: it goes on from the last checkpoint" in stopped.stderr
    assert [path.name for path in checkpoint.whole(tmp_path / "tiny/checkpoints")] == [
        "step-000000",
        "step-000002",
    ]
    assert "Resuming from step-000002" in start(of, tmp_path, cache).stdout
    assert (tmp_path / "tiny" / LANGUAGE).read_bytes() == (through / LANGUAGE).read_bytes()


def test_a_split_base_trains_stops_and_is_chosen_from_as_a_whole_one(
    split: plan.Plan, split_through: Path, cache: Path, tmp_path: Path
) -> None:
    one = texts.carry_out(alone(split), texts.where(alone(split), tmp_path, cache))
    ours, theirs = (
        checkpoint.receipt(checkpoint.whole(folder / "checkpoints")[-1]).state
        for folder in (split_through, one.parent)
    )

    assert split.program.compute.sharded == ("model.model.layers.0", "model.model.layers.1")
    _assert_close(split_through / LANGUAGE, one)
    assert ours.step == theirs.step == 4
    assert ours.standing is not None and theirs.standing is not None
    assert ours.standing.chosen.step == theirs.standing.chosen.step == 2
    assert ours.held_out["4"].loss == pytest.approx(theirs.held_out["4"].loss, rel=1e-4)
    said = [(folder / "samples/final.json").read_text() for folder in (split_through, one.parent)]
    assert said[0] == said[1]


def test_a_split_run_goes_on_to_the_same_bytes(
    split: plan.Plan, split_through: Path, cache: Path, tmp_path: Path
) -> None:
    stopped = start(split, tmp_path, cache, fault="kill@3/1")

    assert "error: process 1 of 2 was ended by SIGKILL" in stopped.stderr
    assert "Resuming from step-000002" in start(split, tmp_path, cache).stdout
    for name in (LANGUAGE, "checkpoints/step-000004/optimizer.safetensors"):
        assert (tmp_path / "tiny" / name).read_bytes() == (split_through / name).read_bytes()


def test_pictures_of_short_steps_are_trained_alike_and_memory_that_runs_out_in_one_steps_all_down(
    tiny_base: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """An epoch's second step has two pictures: cut for two, the second process has none of them."""
    fallbacks = (plan.Fallback(micro_batch=1, accumulation=2),)
    of = plans.tiny_plan(
        tiny_base, tiny_data, dropout=0.1, micro_batch=2, accumulation=1, processes=2, fallbacks=fallbacks
    )
    undisturbed = plans.tiny_plan(tiny_base, tiny_data, dropout=0.1)

    done = start(of, tmp_path, tmp_path / "cache", fault="oom@3/1")

    assert done.returncode == 0, done.stderr
    assert "out of memory at step 4" in done.stdout
    _assert_close(tmp_path / "tiny" / PICTURES, plans.carry_out(undisturbed, tmp_path / "one"))


@pytest.mark.parametrize(("planned", "started"), [(2, 1), (1, 2), (2, 3)])
def test_another_number_of_processes_than_planned_is_refused(
    tiny_base: Path,
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    planned: int,
    started: int,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(started))
    of = plans.tiny_plan(tiny_base, tiny_data, accumulation=1, micro_batch=4 // planned, processes=planned)

    with pytest.raises(MachineError) as refused:
        preflight.check(of, plans.where(of, tmp_path))

    assert refused.value.lines() == [
        f"error: processes: the plan is for {planned}, and {started} were started",
        f"hint: start {planned}, or plan again for {started}: Fit(processes={started})",
    ]


def _assert_close(ours: Path, theirs: Path) -> None:
    mine, other = _tensors(ours), _tensors(theirs)
    assert mine.keys() == other.keys()
    for name, tensor in mine.items():
        torch.testing.assert_close(tensor, other[name], atol=1e-4, rtol=1e-3)


def _tensors(path: Path) -> dict[str, Tensor]:
    with open_weights(path) as file:
        return {name: file.load(name) for name in file}
