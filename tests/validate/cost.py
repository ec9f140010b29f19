"""What exactness costs: `python -m tests.validate.cost` carries out the demos' plans and times, inside them, what is
done so that nothing is lost and everything is what was planned: checkpoints (with their hashes and `fsync`), and the
hashes of base, data and outputs. Figures go to docs/cost.json and docs/cost.md.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import torch

from lorac.generate import generate
from lorac.load import load
from runtime import checkpoint, preflight
from runtime.preflight import Where
from runtime.run import Options, run
from runtime.safeio import digest
from runtime.safeio.atomic import write_text
from tests.bench.figures import machine, versions

ROOT = Path(__file__).parents[2]
SPECS = ("quickstart", "chat_quickstart")
GOAL = 0.03
"""Issue 8."""


@attrs.define
class Spent:
    """Seconds by what they were spent on. What is timed inside something timed is that one's."""

    seconds: dict[str, float] = attrs.field(factory=dict)
    is_inside: bool = False

    def timed(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, its time taken."""

        @functools.wraps(work)
        def done(*given: Any, **named: Any) -> Any:
            if self.is_inside:
                return work(*given, **named)
            self.is_inside, began = True, time.perf_counter()
            try:
                return work(*given, **named)
            finally:
                self.is_inside = False
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began

        return done


@contextmanager
def watched(spent: Spent) -> Iterator[None]:
    """While this holds, what exactness does is timed."""
    places = (
        (checkpoint, "save", "checkpoints"),
        (digest, "sha256_file", "hashes"),
        (digest, "sha256_files", "hashes"),
    )
    before = [(module, name, getattr(module, name)) for module, name, _ in places]
    for module, name, what in places:
        setattr(module, name, spent.timed(what, getattr(module, name)))
    try:
        yield
    finally:
        for module, name, work in before:
            setattr(module, name, work)


def measured(spec: Path, folder: Path) -> dict[str, Any]:
    """The plan of a spec, carried out whole in `folder`."""
    (written,) = generate(load(spec), folder / "generated")
    of = written.plan
    output = folder / "output"
    where = Where(
        base=ROOT / of.outputs.places.base,
        data=ROOT / of.outputs.places.data,
        output=output,
        log=output / "logs",
        cache=folder / "cache",
    )
    spent = Spent()
    torch.set_num_threads(of.program.compute.threads or torch.get_num_threads())
    began = time.perf_counter()
    with watched(spent):
        preflight.check(of, where)
        run(of, Options(where=where))
    whole = time.perf_counter() - began
    return {
        "spec": spec.name,
        "steps": of.program.train.steps,
        "checkpoints_each": of.outputs.save_steps,
        "seconds": whole,
        **{f"{name}_seconds": value for name, value in sorted(spent.seconds.items())},
        "share": sum(spent.seconds.values()) / whole,
    }


def page(found: dict[str, Any]) -> str:
    """The figures for people, as Markdown."""
    rows = [
        f"| {one['spec']} | {one['steps']} | {one['checkpoints_each']} | {one['seconds']:.1f} "
        f"| {one['checkpoints_seconds']:.2f} | {one['hashes_seconds']:.2f} | {one['share']:.2%} |"
        for one in found["runs"]
    ]
    return "\n".join(
        [
            "# What exactness costs",
            "",
            f"Made by `{found['command']}` on {found['day']}; {found['machine']['processor']}, load "
            f"{found['machine']['load']:.1f} at the end. Whole runs of the demos, from the check to the report; "
            f"the goal is {GOAL:.0%} of a run's time.",
            "",
            "| spec | steps | a checkpoint each | whole run, s | checkpoints, s | hashes, s | share |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
            *rows,
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.validate.cost", description=__doc__)
    parser.add_argument("--specs", default=",".join(SPECS))
    parser.add_argument(
        "--out", type=Path, help="folder for cost.json and cost.md; without it the page is printed"
    )
    options = parser.parse_args()
    runs = []
    for name in options.specs.split(","):
        with tempfile.TemporaryDirectory() as folder:
            runs.append(measured(ROOT / "specs" / f"{name}.py", Path(folder)))
    found = {
        "command": f"python -m tests.validate.cost --specs {options.specs} --out docs",
        "day": datetime.date.today().isoformat(),
        "machine": machine(torch.get_num_threads()),
        "versions": versions(("torch",)),
        "runs": runs,
    }
    if options.out:
        write_text(options.out / "cost.json", json.dumps(found, indent=2, ensure_ascii=False) + "\n")
        write_text(options.out / "cost.md", page(found))
    print(page(found))


if __name__ == "__main__":
    main()
