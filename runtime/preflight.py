"""Before anything is loaded: are the plan's inputs still what they were, and can this machine run it?"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import attrs
import torch

from runtime import plan
from runtime.errors import MachineError, PlanError, Problem
from runtime.families import inspect
from runtime.safeio import digest, paths

AGAIN = "make the plan again and review it: lorac plan SPEC"


@attrs.frozen(kw_only=True)
class Where:
    """The plan's places on this machine, as paths."""

    base: Path
    data: Path
    output: Path
    log: Path
    cache: Path


def check(of: plan.Plan, where: Where, accept_versions: bool = False) -> None:
    """Refuse a plan whose inputs changed or that this machine can't run. Raises PlanError or MachineError."""
    if not of.program.locked:
        hint = "put the base and the data where the spec says and run: lorac plan SPEC"
        raise PlanError(Problem("plan.json", "is unlocked: it was made without the base or the data", hint))
    problems = _data_problems(of.program.data, where.data) + _base_problems(of.program.base, where.base)
    if problems:
        raise PlanError(problems)
    _machine(of.program, accept_versions)


def _data_problems(data: plan.Images, root: Path) -> list[Problem]:
    problems, files = [], {}
    for item in data.items:
        path = paths.inside(root, item.path, error=PlanError)
        if path.is_file():
            files[item] = path
        else:
            problems.append(Problem(str(root / item.path), "is gone since planning", AGAIN))
    hashes = digest.sha256_files(files.values())
    problems += [
        Problem(str(root / item.path), "changed since planning", AGAIN)
        for item, path in files.items()
        if hashes[path] != item.sha256
    ]
    return problems


def _base_problems(base: plan.Base, path: Path) -> list[Problem]:
    if inspect.digest(path, base.layout, digest.sha256_file) == base.digest:
        return []
    return [Problem(str(path), "the base changed since planning", AGAIN)]


def _machine(program: plan.Program, accept_versions: bool) -> None:
    problems = []
    if program.compute.device == "cuda" and not torch.cuda.is_available():
        hint = "plan for this machine: lorac plan SPEC --card cpu"
        problems.append(Problem("device", "the plan is for a CUDA card, and there is none here", hint))
    if program.train.processes > 1:
        hint = "set Fit(processes=1)"
        problems.append(Problem("processes", "several processes are not supported yet", hint))
    for name, wanted in program.versions.items():
        here = public_version(name)
        if here != wanted and not accept_versions:
            hint = "install the plan's versions, plan again, or give --accept-versions"
            problems.append(
                Problem(name, f"version {here} is installed, the plan was made with {wanted}", hint)
            )
    if problems:
        raise MachineError(problems)


def public_version(name: str) -> str:
    """A package's version without its local part ("+cu130"), which differs between builds of the same code."""
    return version(name).partition("+")[0]
