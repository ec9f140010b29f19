"""The runs of a sweep as tasks of Ray: several at once, on this machine or on a cluster.

- Each asks for what its plan says that it needs, so Ray puts as many on a card, or into a machine's memory, as fit.
- A run whose process, worker or node dies is begun again, elsewhere if need be, and goes on from its checkpoint. It
  ends by itself, with its checkpoint, when its worker does.
- The nodes of a cluster have the same Python, and the spec's folder, `generated/` and `output/`, at the same place:
  what runs write and what others read of them goes by files.

Ray Tune's ASHA is not used. Its rungs live in the process that schedules, and a sweep that goes on begins with empty
ones; a trial of Tune keeps checkpoints and results of its own beside those of the run; and it needs pandas and pyarrow.
Of all this a sweep wants the rule, which is `lorac.halving`.

This is the only file that imports Ray, and it does so when it is asked to.
"""

from __future__ import annotations

import fcntl
import math
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs

from lorac import launch
from lorac.halving import Contender, watch
from lorac.sweep import Ended, Job, Tell
from runtime import plan
from runtime.errors import Interrupted, MachineError, Problem
from runtime.human import size

RETRIES = 3
"""How often a run is begun again whose process, worker or node died."""
STORE = 100 * 2**20
"""Bytes of Ray's object store on this machine: runs share files, not objects. Ray takes no less than 75 MiB."""
WORKER = 140 * 2**20
"""Resident bytes of the worker that starts a run and follows it: 134 MiB at most (VmHWM, ray 2.60.0, Linux)."""
PARTS = 10_000
"""Ray counts a card in ten-thousandths (docs, "Fractional accelerators")."""
LONE = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # its servers listen on the loopback address alone, as they do there
    "RAY_AUTH_MODE": "token",  # as it is by default, and then without a warning
    "RAY_memory_monitor_refresh_ms": "0",  # where memory runs low it kills workers, who have none of a run's
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""The environment of a Ray that is started for a sweep."""


@attrs.frozen(kw_only=True)
class Trial:
    """What a worker needs to carry a plan out: the command, the folder it runs in, where it writes what it says."""

    command: tuple[str, ...]
    root: Path
    said: Path
    mine: Contender
    among: tuple[Contender, ...]


class KilledError(Exception):
    """A run was ended by a signal that nobody here sent."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def on_ray(jobs: Sequence[Job], among: Sequence[Contender], tell: Tell) -> Generator[Ended, None, None]:
    """The executor that runs side by side what the cluster has room for. Raises MachineError."""
    ray = imported()
    with _cluster(ray):
        _refuse_too_large(jobs, [node["Resources"] for node in ray.nodes() if node["Alive"]])
        task = ray.remote(max_retries=RETRIES, retry_exceptions=[KilledError])(carry_out)
        running = {task.options(**wants(job.written.plan)).remote(_trial(job, among)): job for job in jobs}
        try:
            while running:
                (done,), _ = ray.wait([*running])
                ended = _ended(ray, running.pop(done), done)
                if ended.code and not ended.is_weak:
                    tell(f"what {ended.job.written.plan.outputs.name} said is in {_said(ended.job)}")
                yield ended
        finally:
            if running:
                tell("stopping after the steps that are under way; once more to stop at once")
                for one in running:
                    ray.cancel(one)
                ray.wait([*running], num_returns=len(running))


def wants(of: plan.Plan) -> dict[str, float]:
    """What a run asks of Ray: the share of a card that its peak is, or its threads; and its part of main memory.

    The share is of the card that the plan is for; on a larger one it is more than the run needs. A run of several
    processes takes a card for each.
    """
    train, compute, estimate = of.program.train, of.program.compute, of.estimate
    wanted: dict[str, float] = {
        "num_cpus": train.processes * max(1, compute.threads),
        "memory": train.processes * estimate.host_bytes + WORKER,
    }
    if compute.device == "cuda":
        share = min(1.0, math.ceil(PARTS * estimate.peak_bytes / estimate.usable_bytes) / PARTS)
        wanted["num_gpus"] = share if train.processes == 1 else train.processes
    return wanted


# ------------------------------------------------------------------------------------------------------ in the worker


def carry_out(trial: Trial) -> tuple[int, bool]:
    """Run a plan to its end: its exit code, and whether it was stopped for being weak. Raises KilledError.

    `ray.cancel` raises KeyboardInterrupt in here, and the run is stopped in order.
    """
    os.chdir(trial.root)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a sweep begun in the background has it ignored
    _wait_until_free(trial.mine.folder)
    watched = watch(trial.mine, trial.among)
    with trial.said.open("ab") as said:
        process = subprocess.Popen(
            [*_with_us(), *trial.command], stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT
        )
    try:
        code = launch.end_of(process, watched.look)
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise
    if code > 128 and code != Interrupted.exit_code and not watched.found_weak:
        raise KilledError(code)
    return code, watched.found_weak


def _wait_until_free(folder: Path) -> None:
    """Wait for a run that outlived its worker, and is about to end."""
    if not folder.is_dir():
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                time.sleep(launch.LOOK)
    finally:
        os.close(descriptor)


def _with_us() -> list[str]:
    """What has the kernel stop a run when its worker is killed (prctl's PR_SET_PDEATHSIG; util-linux). Where there is
    no such thing, the run goes on to its end, and `_wait_until_free` waits for it."""
    return ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []


# ------------------------------------------------------------------------------------------------------ in the command


def imported() -> ModuleType:
    """Ray itself. Raises MachineError where it is not installed."""
    if "RAY_ADDRESS" not in os.environ:
        for name, value in LONE.items():  # some are read when it is imported
            os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError:
        hint = "pip install -c constraints.txt -e '.[ray]', or leave --on away"
        raise MachineError(Problem("ray", "is not installed, and --on ray needs it", hint)) from None
    found: ModuleType = ray
    return found


@contextmanager
def _cluster(ray: ModuleType) -> Iterator[None]:
    """The cluster that RAY_ADDRESS names; else one of this machine alone, as long as the sweep runs."""
    if ray.is_initialized():  # by the program that called us, which ends it as well
        yield
        return
    alone = {"address": "local", "include_dashboard": False, "object_store_memory": STORE}
    try:
        ray.init(log_to_driver=False, logging_level="ERROR", **({} if "RAY_ADDRESS" in os.environ else alone))
    except Exception as error:  # Ray has no narrower one for a node that does not come up
        hint = "run the same command again on a quieter machine, or look at RAY_ADDRESS"
        raise MachineError(Problem("ray", f"did not start: {error}", hint)) from error
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # it is an order to stop, as Ctrl-C is
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        ray.shutdown()


def _refuse_too_large(jobs: Sequence[Job], nodes: Sequence[Mapping[str, float]]) -> None:
    """Ray would wait for ever. Raises MachineError with every run that no node has room for."""
    names = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
    problems = []
    for job in jobs:
        wanted = {names[name]: amount for name, amount in wants(job.written.plan).items()}
        if not any(all(node.get(name, 0) >= amount for name, amount in wanted.items()) for node in nodes):
            said = ", ".join(_amount(name, amount) for name, amount in wanted.items())
            hint = "plan for less: --card, Fit(threads=…); or name a larger cluster: RAY_ADDRESS"
            what = f"wants {said}, and no node of Ray has that"
            problems.append(Problem(job.written.plan.outputs.name, what, hint))
    if problems:
        raise MachineError(problems)


def _amount(name: str, amount: float) -> str:
    return f"{size(int(amount))} of memory" if name == "memory" else f"{amount:g} {name}"


def _trial(job: Job, among: Sequence[Contender]) -> Trial:
    return Trial(
        command=tuple(launch.command(job.written.path, ())),
        root=Path.cwd(),
        said=_said(job).absolute(),
        mine=Contender.of(job.written.plan),
        among=tuple(among),
    )


def _said(job: Job) -> Path:
    """Where what a run says is kept: beside its plan."""
    return job.written.path.with_name("said.txt")


def _ended(ray: ModuleType, job: Job, done: Any) -> Ended:
    """A task's answer. Raises MachineError where it was lost too often."""
    name = job.written.plan.outputs.name
    try:
        code, is_weak = ray.get(done)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        if cause is not None and not isinstance(cause, KilledError):
            raise  # a bug of ours
        what = f"was killed, or lost its worker, {RETRIES + 1} times; what it said is in {_said(job)}"
        raise MachineError(Problem(name, what, "look there for why")) from None
    return Ended(job, code, is_weak)
