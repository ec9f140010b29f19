"""A sweep on Ray, with runs that are small scripts: side by side, begun again when killed, stopped in order."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import psutil
import pytest

from lorac import launch
from lorac.on_ray import LONE, WORKER, on_ray, wants
from lorac.sweep import Ended, Job
from runtime.errors import MachineError
from tests.lorac.runs import job, made_plan

MIB, GIB = 2**20, 2**30
START = """
import os, pathlib, signal, sys, time
def wait(name):
    while not pathlib.Path(name).exists(): time.sleep(0.05)
first = not pathlib.Path({name!r}).exists()
pathlib.Path({name!r}).write_text(str(os.getpid()))
"""
SAVES = "signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path('saved').touch(), sys.exit(130)))\n"
"""What the scripts begin with; and what makes one end in order."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray of this machine, with room for three runs."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in LONE.items():
            patch.setenv(name, value)
        import ray  # reads some of them when it is imported

        ray.init(
            address="local", num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
        )
        yield
        ray.shutdown()


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Job]:
    """A job whose run is a script in the current folder, where it leaves its process id; `first` is its first life."""
    monkeypatch.chdir(tmp_path)
    scripts: dict[str, str] = {}

    def command(path: Path, options: object) -> list[str]:
        return [sys.executable, "-c", scripts[path.parent.name]]

    def make(name: str, script: str) -> Job:
        one = job(tmp_path, name)
        one.written.path.parent.mkdir(parents=True)
        scripts[name] = START.format(name=name) + script
        return asking(one, 100 * MIB)

    monkeypatch.setattr(launch, "command", command)
    return make


def names(of: list[Ended]) -> dict[str, int]:
    return {one.job.written.plan.outputs.name: one.code for one in of}


def asking(of: Job, host_bytes: int) -> Job:
    """The job with a plan for one thread of a CPU and so much memory."""
    plan = of.written.plan
    compute = attrs.evolve(plan.program.compute, device="cpu", threads=1)
    estimate = attrs.evolve(plan.estimate, host_bytes=host_bytes)
    asks = attrs.evolve(plan, program=attrs.evolve(plan.program, compute=compute), estimate=estimate)
    return Job(attrs.evolve(of.written, plan=asks), of.settings)


def soon(path: str) -> int:
    """The process id in a file, once it is there."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if Path(path).exists() and Path(path).read_text():
            return int(Path(path).read_text())
        time.sleep(0.05)
    pytest.fail(f"{path} was not written")


@pytest.mark.usefixtures("cluster")
def test_runs_are_side_by_side_and_one_whose_process_or_worker_is_killed_is_begun_again(
    made: Callable[..., Job],
) -> None:
    jobs = [
        made("a", "wait('b'); sys.exit(6)"),
        made("b", "wait('a'); first and os.kill(os.getpid(), signal.SIGKILL)"),
        made("c", SAVES + "first and wait('never')"),
    ]

    def kill_the_worker() -> None:
        worker = psutil.Process(soon("c")).parent()
        assert worker is not None
        worker.kill()

    threading.Thread(target=kill_the_worker, daemon=True).start()
    ended = names([*on_ray(jobs, (), lambda words: None)])
    assert ended == {"a": 6, "b": 0, "c": 0}
    assert Path("saved").exists()


@pytest.mark.usefixtures("cluster")
def test_when_the_sweep_is_stopped_each_run_is_stopped_in_order(made: Callable[..., Job]) -> None:
    said: list[str] = []
    ends = on_ray([made("a", ""), made("b", SAVES + "wait('never')")], (), said.append)
    assert next(ends).code == 0
    running = psutil.Process(soon("b"))
    ends.close()
    assert said == ["stopping after the steps that are under way; once more to stop at once"]
    assert Path("saved").exists()
    assert not running.is_running()


@pytest.mark.usefixtures("cluster")
def test_a_run_that_no_node_has_room_for_is_refused(made: Callable[..., Job]) -> None:
    large = asking(made("large", ""), 2**50)
    with pytest.raises(MachineError) as caught:
        next(on_ray([large], (), lambda words: None))
    wanted = "large: wants 1 CPU, 1048576.14 GiB of memory, and no node of Ray has that"
    assert str(caught.value) == wanted


def test_a_run_asks_for_the_share_of_its_card_that_its_peak_is_rounded_up(tmp_path: Path) -> None:
    of = made_plan(tmp_path)
    estimate = attrs.evolve(of.estimate, peak_bytes=4 * GIB, usable_bytes=11 * GIB, host_bytes=3 * GIB)
    compute = attrs.evolve(of.program.compute, device="cuda", threads=0)
    alone = attrs.evolve(of, estimate=estimate, program=attrs.evolve(of.program, compute=compute))
    assert wants(alone) == {"num_cpus": 1, "memory": 3 * GIB + WORKER, "num_gpus": 0.3637}
    train = attrs.evolve(of.program.train, processes=2)
    both = attrs.evolve(alone, program=attrs.evolve(alone.program, train=train))
    assert wants(both) == {"num_cpus": 2, "memory": 6 * GIB + WORKER, "num_gpus": 2}
    compute = attrs.evolve(of.program.compute, device="cpu", threads=4)
    there = attrs.evolve(alone, program=attrs.evolve(alone.program, compute=compute))
    assert wants(there) == {"num_cpus": 4, "memory": 3 * GIB + WORKER}


def test_without_ray_the_error_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in LONE:
        monkeypatch.setenv(name, os.environ.get(name, LONE[name]))  # as it was, afterwards
    with pytest.raises(MachineError) as caught:
        next(on_ray([job(tmp_path, "a")], (), lambda words: None))
    assert caught.value.lines() == [
        "error: ray: is not installed, and --on ray needs it",
        "hint: pip install -c constraints.txt -e '.[ray]', or leave --on away",
    ]
