"""From a spec file to its plans on disk, each with the script that starts it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
from jinja2 import Environment, PackageLoader, StrictUndefined

from lorac.compile import compile_experiment
from lorac.load import Loaded
from runtime import plan
from runtime.safeio import atomic

PLAN, SCRIPT = "plan.json", "run.sh"
FOR_SEVERAL = ("slurm.sh", "k8s-job.yaml")
"""What is written beside, where the plan has several processes: scripts for batch systems."""


@attrs.frozen(kw_only=True)
class Written:
    """A plan and the file it was written to."""

    plan: plan.Plan
    path: Path

    def answer(self) -> dict[str, Any]:
        """What `lorac plan --json` prints: the hash, the file, what was decided, the estimate."""
        estimate = plan.unstructure(self.plan.estimate)
        decisions = estimate.pop("decisions")
        return {
            "plan_hash": self.plan.plan_hash,
            "path": self.path.as_posix(),
            "decisions": decisions,
            "estimate": estimate,
        }


def generate(
    loaded: list[Loaded],
    out: Path,
    card: str | None = None,
    unlocked: bool = False,
    tell: Callable[[str], None] = lambda words: None,
) -> list[Written]:
    """Compile the experiments of a spec and write each to `out`/NAME; nothing is written unless all compile.

    The plans' places are relative to the current folder; `tell` hears what is being done. Raises what
    `compile_experiment` raises.
    """
    root = Path.cwd()
    written = []
    for one in compiled(loaded, root, card, unlocked, tell):
        folder = out / one.outputs.name
        folder.mkdir(parents=True, exist_ok=True)
        several = FOR_SEVERAL if one.program.train.processes > 1 else ()
        for script in (SCRIPT, *several):
            atomic.write_text(folder / script, launch_script(one, folder.absolute(), root, script))
        plan.write(one, folder / PLAN)
        written.append(Written(plan=one, path=folder / PLAN))
    return written


def compiled(
    loaded: list[Loaded],
    root: Path,
    card: str | None,
    unlocked: bool,
    tell: Callable[[str], None] = lambda words: None,
) -> list[plan.Plan]:
    """The plans of a spec's experiments, with places relative to `root`."""

    def of(one: Loaded) -> plan.Plan:
        return compile_experiment(
            one.experiment,
            root,
            one.path.parent,
            card=card,
            unlocked=unlocked,
            tell=lambda words: tell(f"planning {one.experiment.name}: {words}"),
        )

    return [of(one) for one in loaded]


def launch_script(of: plan.Plan, folder: Path, root: Path, script: str = SCRIPT) -> str:
    """A script that runs the plan in `folder` from the folder `root`: POSIX shell, SLURM's, or a Kubernetes Job."""
    templates = Environment(
        loader=PackageLoader("lorac"), undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True
    )  # no HTML: each value goes through `quote` in shell, `tojson` in YAML
    templates.filters["quote"] = shlex.quote
    processes = of.program.train.processes
    return templates.get_template(f"{script}.j2").render(
        name=of.outputs.name,
        plan_hash=of.plan_hash,
        processes=processes,
        cards=of.program.compute.device == "cuda",
        host_bytes=of.estimate.host_bytes * processes,
        script=Path(os.path.relpath(folder / script, root)).as_posix(),
        root=Path(os.path.relpath(root, folder)).as_posix(),
        plan=Path(os.path.relpath(folder / PLAN, root)).as_posix(),
    )
