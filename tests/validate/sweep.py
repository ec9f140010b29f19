"""A sweep on Ray, disturbed: `python -m tests.validate.sweep` (`just validate-sweep`) writes docs/sweep.json and .md.

Six runs of a tiny random language model with other learning rates, one of them absurd, by `lorac sweep --on ray
--stop-weak`. One run's process is killed, and once it is begun again its Ray worker, each by SIGKILL; then Ctrl-C, and
the same command again. Each run that ended is then carried out once more by itself, and every byte compared.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import attrs
import psutil

from lorac.halving import last_step
from runtime import plan as plans
from runtime.export import manifest as manifests
from runtime.families import causal_lm
from runtime.safeio import digest
from tests import texts
from tests.life import Lives
from tests.torture import hashes

ROOT = Path(__file__).parents[2]
RATES = (4e-3, 2e-3, 1e-3, 5e-4, 2.5e-4, 0.3)
"""The best is the first, which is disturbed; the last one is absurd."""
CPUS = 3
"""What Ray is told that this machine has: so many runs of one thread are under way at once."""
STEPS, SAVED, KILLED_AFTER = 180, 30, (40, 80)
"""Steps of a run, between two of its checkpoints, and after which it is killed, the second time where it had not been
before."""
LONGEST = 3600.0
"""Seconds, after which it is given up."""

SPEC = f"""
from lorac import Experiment, Fit, Instructions, LoRA, Outputs, Sequences, Train
experiment = Experiment(
    name="tiny",
    base="base",
    data=Instructions("questions.jsonl"),
    sequences=Sequences(length=128),
    adapter=LoRA(rank=4),
    train=Train(effective_batch=4, steps={STEPS}, seed=1),
    fit=Fit(card="cpu", threads=1),
    outputs=Outputs(save_steps={SAVED}),
)
"""


@attrs.define(kw_only=True)
class Run:
    """What became of one run. `resumed`: from which checkpoints it went on; `is_equal` to an undisturbed one, byte by
    byte, where it ended."""

    learning_rate: float
    state: str
    steps: int
    loss: float | None
    resumed: list[str]
    disturbed: str = ""
    is_equal: bool | None = None


@attrs.define(kw_only=True)
class Figures:
    """`at_once`: most runs under way; `addresses`: what Ray listened on; `seconds` of the sweep, both parts, and from
    Ctrl-C to its end; `left`: processes of runs that outlived it."""

    command: str
    machine: str
    versions: dict[str, str]
    at_once: int = 0
    addresses: list[str] = attrs.field(factory=list)
    interrupted_code: int = -1
    interrupted_said: list[str] = attrs.field(factory=list)
    left: int = -1
    done_before: int = 0
    stopping_seconds: float = 0.0
    code: int = -1
    seconds: float = 0.0
    runs: list[Run] = attrs.field(factory=list)


@attrs.define
class Sweep:
    """The command under way, in a folder."""

    work: Path
    process: subprocess.Popen[str]

    def runs(self) -> Iterator[tuple[str, psutil.Process]]:
        """The processes that carry plans out, by their run's name."""
        for one in psutil.process_iter(["cmdline", "cwd"]):
            line = " ".join(one.info["cmdline"] or ())
            found = re.search(r"-m runtime generated/([^/]+)/plan\.json", line)
            if found and one.info["cwd"] == str(self.work):
                yield found[1], one

    def steps(self, name: str) -> int:
        return last_step(self.work / "output" / name / "logs" / "metrics.jsonl")

    def states(self) -> dict[str, str]:
        table = self.work / "output" / "spec-sweep" / "table.json"
        rows = json.loads(table.read_text())["rows"] if table.exists() else []
        return {row["name"]: row["state"] for row in rows}


@contextmanager
def started(work: Path, log: Path) -> Iterator[Sweep]:
    """The command, in a session of its own, so that Ctrl-C can be sent to all of it as a terminal does."""
    rates = ",".join(map(str, RATES))
    sets = ["--set", f"train.learning_rate={rates}"]
    command = ["lorac", "sweep", "spec.py", *sets, "--on", "ray", "--stop-weak"]
    environment = {
        **os.environ,
        "LORAC_CACHE": str(work / "cache"),
        "PYTHONPATH": str(ROOT),
        "RAY_OVERRIDE_RESOURCES": json.dumps({"CPU": CPUS}),
        "OMP_NUM_THREADS": "1",
    }
    with log.open("w") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=work,
            stdout=said,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            start_new_session=True,
        )
    try:
        yield Sweep(work, process)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
            process.wait()


def until(of: Sweep, what: str, is_so: Callable[[], bool], figures: Figures) -> None:
    """Look until something is so; meanwhile count the runs under way."""
    began = time.monotonic()
    while not is_so():
        figures.at_once = max(figures.at_once, len([*of.runs()]))
        if time.monotonic() - began > LONGEST or of.process.poll() is not None:
            raise SystemExit(f"{what}: did not come about; exit code {of.process.poll()}")
        time.sleep(0.2)
    print(f"{what}: {of.states()}", flush=True)


def process_of(of: Sweep, name: str) -> psutil.Process | None:
    return next((one for run, one in of.runs() if run == name), None)


def kill(of: Sweep, name: str, after: int, figures: Figures, worker: bool) -> None:
    """Kill a run, or the worker that started it, once it has a checkpoint; then wait until it is begun again."""
    until(of, f"{name} is past step {after}", lambda: of.steps(name) >= after, figures)
    run = process_of(of, name)
    assert run is not None, f"{name} had ended before it could be killed"
    victim = run.parent() if worker else run
    assert victim is not None
    assert not worker or victim.name().startswith("ray::"), victim.name()
    victim.kill()

    def is_begun_again() -> bool:
        again = process_of(of, name)
        return again is not None and again.pid != run.pid

    until(of, f"{name} is begun again", is_begun_again, figures)


def listening(of: Sweep) -> list[str]:
    """The addresses that the command and what it started listen on."""
    mine = psutil.Process(of.process.pid)
    found = {
        connection.laddr.ip.removeprefix("::ffff:")
        for one in (mine, *mine.children(recursive=True))
        for connection in one.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    return sorted(found)


def disturb(work: Path, figures: Figures) -> None:
    """The first part: two kills, and Ctrl-C once a run has ended."""
    disturbed, began = f"tiny-learning_rate-{RATES[0]}", time.monotonic()
    with started(work, work / "first.txt") as of:
        kill(of, disturbed, KILLED_AFTER[0], figures, worker=False)
        figures.addresses = listening(of)
        kill(of, disturbed, KILLED_AFTER[1], figures, worker=True)
        until(of, "a run has ended", lambda: {"done", "stopped"} & {*of.states().values()} != set(), figures)
        asked = time.monotonic()
        os.killpg(of.process.pid, signal.SIGINT)
        figures.interrupted_code = of.process.wait(LONGEST)
    figures.stopping_seconds = round(time.monotonic() - asked, 1)
    figures.left = len([*of.runs()])
    figures.done_before = sum(state in ("done", "stopped") for state in of.states().values())
    figures.interrupted_said = (work / "first.txt").read_text().splitlines()[-2:]
    figures.seconds = round(time.monotonic() - began, 1)


def go_on(work: Path, figures: Figures) -> None:
    """The second part: the same command again."""
    began = time.monotonic()
    with started(work, work / "second.txt") as of:
        figures.code = of.process.wait(LONGEST)
    figures.seconds = round(figures.seconds + time.monotonic() - began, 1)
    if figures.code:
        raise SystemExit((work / "second.txt").read_text())


def compared(work: Path) -> list[Run]:
    """Every run of the table, and those that ended held against themselves undisturbed."""
    lives = Lives()
    found = []
    for place, row in enumerate(json.loads((work / "output/spec-sweep/table.json").read_text())["rows"]):
        plan = work / "generated" / row["name"] / "plan.json"
        said = plan.with_name("said.txt").read_text()
        loss = row["training_loss"]
        made = Run(
            learning_rate=row["settings"]["train.learning_rate"],
            state=row["state"],
            steps=last_step(work / "output" / row["name"] / "logs" / "metrics.jsonl"),
            loss=round(loss["mean"], 4) if loss else None,
            resumed=re.findall(r"Resuming from (step-\d+)", said),
            disturbed="" if place else "its process killed, then its worker",
        )
        if made.state == "done":
            alone = work / "alone" / row["name"]
            assert lives.live(absolute(plan, alone / "plan.json"), alone).code == 0, alone
            made.is_equal = hashes(alone) == listed(work / "output" / row["name"])
        found.append(made)
        print(made, flush=True)
    return found


def absolute(plan: Path, copy: Path) -> Path:
    """A copy of the plan for another folder: its base and data are where they were."""
    of = plans.read(plan)
    places, folder = of.outputs.places, plan.parents[2]
    at = attrs.evolve(places, base=str(folder / places.base), data=str(folder / places.data))
    plans.write(attrs.evolve(of, outputs=attrs.evolve(of.outputs, places=at)), copy)
    return copy


def listed(run: Path) -> dict[str, str]:
    """The files that a run's manifest names, by their bytes as they are."""
    (manifest,) = run.glob("*.lorac.json")
    return {file.name: digest.sha256_file(run / file.name) for file in manifests.read(manifest).files}


PAGE = """\
# A sweep on Ray, disturbed

`{command}` on {machine}: six runs of a tiny random language model, {steps} steps of batch 4, one thread each,
up to {cpus} at once; weak ones are stopped (`--stop-weak`). {versions}.

| learning rate | what was done to it | ended | steps | training loss | went on from | equals undisturbed |
| ---: | --- | --- | ---: | ---: | --- | --- |
{rows}

- Both kills were SIGKILL, after steps {killed_after}: of the run's process, and of the Ray worker that began it again.
- Then Ctrl-C, once a run had ended: exit code {interrupted_code} after {stopping_seconds} s, {left} processes of runs
  left. It said: “{said}”.
- The same command again ended with exit code {code}; both parts together took {seconds} s. At most {at_once} runs were
  under way at once.
- Ray listened on {addresses} and nowhere else.
- Equal means every file that the run's manifest names, byte by byte, against the same plan carried out by itself.
- The machine had other work at the time: the seconds say nothing of Ray's own cost.
"""


def page(of: Figures) -> str:
    """docs/sweep.md."""
    equal = {True: "yes", False: "no", None: "-"}
    rows = [
        f"| {one.learning_rate:g} | {one.disturbed or '-'} | {one.state} | {one.steps} | {one.loss} "
        f"| {', '.join(one.resumed) or '-'} | {equal[one.is_equal]} |"
        for one in of.runs
    ]
    said = {
        "rows": "\n".join(rows),
        "versions": ", ".join(f"{name} {number}" for name, number in of.versions.items()),
        "said": " / ".join(of.interrupted_said),
        "addresses": ", ".join(of.addresses),
        "cpus": CPUS,
        "steps": STEPS,
        "killed_after": " and ".join(map(str, KILLED_AFTER)),
    }
    return PAGE.format(**{**attrs.asdict(of), **said})


def wrongs(of: Figures) -> list[str]:
    """What is not as it should be."""
    states = [one.state for one in of.runs]
    expected: dict[str, Any] = {
        "six results": set(states) <= {"done", "stopped"} and len(states) == len(RATES),
        "a weak run was stopped": "stopped" in states,
        "the disturbed run ended": states[0] == "done",
        "all that ended equal undisturbed ones": all(one.is_equal for one in of.runs if one.state == "done"),
        "stopped in order": of.interrupted_code == 130 and of.left == 0,
        "loopback only": set(of.addresses) <= {"127.0.0.1", "::1"},
    }
    return [name for name, is_so in expected.items() if not is_so]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 1 where something is not as it should be."""
    parser = argparse.ArgumentParser(prog="python -m tests.validate.sweep", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(".cache/sweep"), help="where the runs are")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="where the figures go")
    options = parser.parse_args(arguments)
    work = options.work.resolve()
    for name in ("base", "generated", "output", "alone"):
        shutil.rmtree(work / name, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    (work / "spec.py").write_text(SPEC)
    causal_lm.tiny(work / "base")
    texts.write(work / "questions.jsonl", texts.questions())
    figures = Figures(
        command="python -m tests.validate.sweep",
        machine=f"{platform.machine()}, {os.cpu_count()} cores",
        versions={name: version(name) for name in ("ray", "torch", "diffusers")},
    )
    disturb(work, figures)
    go_on(work, figures)
    figures.runs = compared(work)
    (options.out / "sweep.json").write_text(json.dumps(attrs.asdict(figures), indent=2) + "\n")
    (options.out / "sweep.md").write_text(page(figures))
    found = wrongs(figures)
    print("\n".join(f"not so: {one}" for one in found) or "all as it should be")
    return int(bool(found))


if __name__ == "__main__":
    raise SystemExit(main())
