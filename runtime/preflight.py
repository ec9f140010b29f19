"""Before anything is loaded: are the plan's inputs still what they were, and can this machine run it?

Torch is imported only to look for a GPU, after all else was found right with a plan for one.
"""

from __future__ import annotations

import shutil
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import attrs
import psutil

from runtime import compiler, plan
from runtime.errors import LoracError, MachineError, PlanError, Problem
from runtime.families import inspect
from runtime.families.parts import Files
from runtime.human import size
from runtime.safeio import digest, paths
from runtime.world import world

AGAIN = "make the plan again and review it: lorac plan SPEC"
IN_ITS_FOLDER = "run the plan from the folder it was planned in, or give its place with --data"
BATCH = 4096
"""Files whose paths are held at once: a million would be some gigabytes."""


@attrs.frozen(kw_only=True)
class Where:
    """The plan's places on this machine, as paths."""

    base: Path
    data: Path
    output: Path
    log: Path
    cache: Path
    parts: Files = attrs.field(factory=dict)

    def component(self, name: str) -> Path:
        """The folder or file that a component of the base is in."""
        return self.parts.get(name, self.base)


def parts_of(places: plan.Places) -> Files:
    """Where what a base's own file has not is, as the plan says."""
    return {name: Path(place) for name, place in places.parts.items()}


def check(of: plan.Plan, where: Where, accept_versions: bool = False) -> None:
    """Refuse a plan whose inputs changed or that this machine can't run. Raises PlanError or MachineError.

    With several processes, one of each machine checks for all that are there.
    """
    if not of.program.locked:
        hint = "put the base and the data where the spec says and run: lorac plan SPEC"
        raise PlanError(Problem("plan.json", "is unlocked: it was made without the base or the data", hint))
    problems = data_problems(of.program.data, where.data) + base_problems(
        of.program.base, where.base, where.parts
    )
    if problems:
        raise PlanError(problems)
    here = world()
    problems = _processes(of.program.train.processes, here.size)
    problems += _versions(of.program, accept_versions) + _disk(of, where)
    problems += _memory(of.estimate, here.local_size)
    problems += _device(of.program, here.local_size) + _packages(of.outputs)
    if problems:
        raise MachineError(problems)


def data_problems(data: plan.Data, root: Path) -> list[Problem]:
    """What is wrong with the data at `root`, if it is not the plan's."""
    if not root.exists():
        return [Problem(str(root), "the data is not here", IN_ITS_FOLDER)]
    gone, changed = list[Problem](), list[Problem]()
    locked = plan.locked_files(data)
    names = list(locked)
    for at in range(0, len(names), BATCH):
        places = {name: paths.inside(root, name, error=PlanError) for name in names[at : at + BATCH]}
        files = {name: path for name, path in places.items() if path.is_file()}
        hashes = digest.sha256_files(files.values())
        for name in places:
            if name not in files:
                gone.append(Problem(str(root / name), "is gone since planning", AGAIN))
            elif hashes[files[name]] != locked[name]:
                changed.append(Problem(str(root / name), "changed since planning", AGAIN))
    return gone + changed


def base_problems(base: plan.Base, path: Path, parts: Files) -> list[Problem]:
    """What is wrong with the base at `path` and its parts, if it is not the plan's. Raises InputError where there is
    none."""
    if inspect.digest(path, base.layout, digest.sha256_file, base.family, parts) == base.digest:
        return []
    return [Problem(str(path), "the base changed since planning", AGAIN)]


def _versions(program: plan.Program, accepted: bool) -> list[Problem]:
    hint = "install the plan's versions, plan again, or give --accept-versions"
    problems = []
    for name, wanted in program.versions.items():
        if name == compiler.NAME and not compiler.version():
            problems.append(
                Problem(name, f"{compiler.MISSING}, the plan was made with {wanted}", compiler.INSTALL)
            )
            continue
        try:
            here = compiler.version() if name == compiler.NAME else public_version(name)
        except PackageNotFoundError:
            problems.append(Problem(name, f"is not installed, the plan was made with {wanted}", hint))
            continue
        if here != wanted and not accepted:
            what = f"version {here} is installed, the plan was made with {wanted}"
            problems.append(Problem(name, what, hint))
    return problems


def _packages(outputs: plan.Outputs) -> list[Problem]:
    if not outputs.gguf or find_spec("gguf") is not None:
        return []
    what = "the plan writes a GGUF adapter, which needs the package gguf"
    return [Problem("outputs.gguf", what, "pip install 'lorac[gguf]'")]


def _processes(planned: int, started: int) -> list[Problem]:
    if started == planned:
        return []
    hint = f"start {planned}, or plan again for {started}: Fit(processes={started})"
    return [Problem("processes", f"the plan is for {planned}, and {started} were started", hint)]


def _device(program: plan.Program, processes: int) -> list[Problem]:
    if program.compute.device != "cuda":
        return []
    import torch

    cards = torch.cuda.device_count()
    if cards >= processes:
        return []
    if cards:
        hint = "start fewer on each machine, or plan for fewer: Fit(processes=…)"
        return [Problem("device", f"{processes} processes want a card each, and {cards} are here", hint)]
    hint = "plan for this machine: lorac plan SPEC --card cpu"
    return [Problem("device", "the plan is for a CUDA card, and there is none here", hint)]


def _disk(of: plan.Plan, where: Where) -> list[Problem]:
    """Each file system that the run writes to must have room for what it has still to write."""
    needs: dict[int, tuple[Path, int]] = {}
    for folder, need in still_to_write(of, where).items():
        there = _existing(folder)
        device = there.stat().st_dev
        before = needs.get(device, (there, 0))
        needs[device] = before[0], before[1] + need
    problems = []
    for place, need in needs.values():
        free = shutil.disk_usage(place).free
        if free < need:
            what = f"the run will write {size(need)}, and {size(free)} are free on this disk"
            hint = f"free {size(need - free)} there, or write elsewhere: --output, LORAC_CACHE"
            problems.append(Problem(str(place), what, hint))
    return problems


def still_to_write(of: plan.Plan, where: Where) -> dict[Path, int]:
    """Folder -> bytes. A run that goes on has encoded its data, and some of its checkpoints are there already."""
    own, cached = of.estimate.disk_bytes - of.estimate.cache_bytes, of.estimate.cache_bytes
    if not _is_own(where.output, of.plan_hash):
        return {where.output: own, where.cache: cached}
    checkpoints = where.output / "checkpoints"
    there = sum(path.stat().st_size for path in checkpoints.rglob("*") if path.is_file())
    return {where.output: max(0, own - there), where.cache: 0 if there else cached}


def _is_own(folder: Path, plan_hash: str) -> bool:
    """Whether a folder is that of a run of this plan."""
    try:
        return plan.read(folder / "plan.json").plan_hash == plan_hash
    except LoracError:
        return False


def _existing(path: Path) -> Path:
    """The path itself, or the nearest folder above it that is there."""
    return next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())


def _memory(estimate: plan.Estimate, processes: int) -> list[Problem]:
    """The computer's memory: what the system can give now, without swapping."""
    need, free = estimate.host_bytes * processes, psutil.virtual_memory().available
    if free >= need:
        return []
    what = f"the run needs {size(need)} of the computer's memory, and {size(free)} are available"
    return [Problem("memory", what, f"close other programs until {size(need)} are available")]


def public_version(name: str) -> str:
    """A package's version without its local part ("+cu130"), which differs between builds of the same code."""
    return version(name).partition("+")[0]
