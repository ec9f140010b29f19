"""Checkpoints: whole or not there, hashed, and enough to go on with the very same bytes.

- There is no iterator and no generator state to keep: order and noise are functions of (seed, step, sample).
- The newest two or more are kept, and what may be exported; a damaged one is passed over, with a line, for the one
  before, and so is one whose chosen checkpoint is damaged or gone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from runtime import choice, evaluate, log, plan
from runtime.errors import LoracError, PlanError, Problem
from runtime.safeio import atomic, digest, safetensors, strict_json, weights
from runtime.step import Trainee

DONE = "DONE.json"

UPDATES = "updates"
"""In ema.safetensors, how many steps the average has seen. Every master's name has a dot."""
GROUP = "group "
"""In optimizer.safetensors, `group 0/key` is a number or tensor of the optimizer's first group."""

NUMBERS = {bool: torch.bool, int: torch.int64, float: torch.float64}
"""A number of Python is kept as a scalar of a dtype that loses nothing of it, and that no tensor of a state has."""


@attrs.frozen(kw_only=True)
class Skipped:
    """A step that moved nothing, counted from 1, and why."""

    step: int
    why: str


@attrs.frozen(kw_only=True)
class State:
    """What is known at a step besides tensors.

    `micro_batch` is what the run had stepped down to; `notes` say what did not go as planned; `started_at` is
    ISO 8601, UTC. `held_out` is what was measured after a step, by its number; `standing` which checkpoint is chosen
    by it so far, where the plan chooses.

    `losses` and `norms` are of the last good steps, `skipped` are the others. `good` is the checkpoint to go back to
    when they are many, `needed` are those that it takes to do so; after `lowered_from` steps the rate is lower than
    planned (`runtime.divergence`).
    """

    step: int
    micro_batch: int
    seconds: float
    losses: tuple[float, ...]
    notes: tuple[str, ...]
    started_at: str
    held_out: dict[str, evaluate.HeldOut] = attrs.field(factory=dict)
    standing: choice.Standing | None = None
    norms: tuple[float, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    good: int = 0
    needed: tuple[int, ...] = (0,)
    lowered_from: int | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """What was measured on what is held out, by name: before the first step and last."""
        if not self.held_out:
            return {}
        steps = sorted(self.held_out, key=int)
        said = {}
        for when, step in (("before", steps[0]), ("after", steps[-1])):
            for name, value in attrs.asdict(self.held_out[step]).items():
                said[f"held_out_{name}_{when}"] = float(value)
        return said


@attrs.frozen(kw_only=True)
class Receipt:
    """What DONE.json says: whose checkpoint it is, where it was, and each file's sha256."""

    plan_hash: str
    state: State
    files: dict[str, str]


def folder(root: Path, step: int) -> Path:
    """Where the checkpoint after `step` steps lies."""
    return root / f"step-{step:06}"


def save(root: Path, of: Trainee, state: State, plan_hash: str, extra: dict[str, bytes]) -> Path:
    """Write a checkpoint; `extra` are more files to keep in it, such as the LoRA itself, by their paths in it. Its
    folder."""
    final = folder(root, state.step)
    if final.exists():  # a run that went back and comes by again writes the same bytes
        atomic.remove_folder(final)
    root.mkdir(parents=True, exist_ok=True)
    with atomic.making_folder(final) as made:
        safetensors.write(made / "adapter.safetensors", {n: p.detach() for n, p in of.masters.items()})
        safetensors.write(made / "optimizer.safetensors", _optimizer_tensors(of))
        if of.ema is not None:
            updates = {UPDATES: torch.tensor(of.ema.updates)}
            safetensors.write(made / "ema.safetensors", {**of.ema.shadow, **updates})
        for name, data in extra.items():
            (made / name).parent.mkdir(exist_ok=True)
            atomic.write_bytes(made / name, data)
        files = sorted(path for path in made.rglob("*") if path.is_file())
        hashes = {path.relative_to(made).as_posix(): digest.sha256_file(path) for path in files}
        done = Receipt(plan_hash=plan_hash, state=state, files=hashes)
        atomic.write_text(made / DONE, strict_json.canonical(plan.unstructure(done)))
    return final


def prune(root: Path, keep: int, spared: frozenset[int] = frozenset()) -> None:
    """Keep the newest `keep` whole checkpoints, and those after the spared steps. That of step 0 goes otherwise."""
    found = whole(root)
    stay = {folder(root, step) for step in spared} | ({*found[-keep:]} - {folder(root, 0)})
    for path in found:
        if path not in stay:
            atomic.remove_folder(path)


def drop_after(root: Path, step: int) -> None:
    """Remove the checkpoints of later steps, the newest first."""
    for path in reversed(whole(root)):
        if path > folder(root, step):
            atomic.remove_folder(path)


def whole(root: Path) -> list[Path]:
    """Checkpoints that were finished, oldest first."""
    return sorted(path.parent for path in root.glob(f"step-*/{DONE}"))


def newest(root: Path, plan_hash: str, upto: int | None = None) -> tuple[Path, State] | None:
    """The newest undamaged checkpoint of this plan (after at most `upto` steps), or None."""
    if root.exists():
        atomic.sweep(root)
    for path in reversed(whole(root)):
        try:
            state = verified(path, plan_hash)
            if upto is not None and state.step > upto:
                continue
            for step in sorted(state.standing.steps - {state.step}) if state.standing else ():
                verified(folder(root, step), plan_hash)
            return path, state
        except LoracError as error:
            log.warn(f"checkpoint {path.name} is passed over: {error}")
    return None


def receipt(path: Path) -> Receipt:
    """A finished checkpoint's receipt. Raises InputError or PlanError for a damaged one."""
    return plan.structure(strict_json.read(path / DONE), Receipt, f"{path.name}/{DONE}")


def verified(path: Path, plan_hash: str) -> State:
    """The state of an undamaged checkpoint of this plan. Raises InputError or PlanError for another."""
    found = receipt(path)
    if found.plan_hash != plan_hash:
        raise PlanError(Problem(path.name, "is of another plan"))
    for name, sha256 in found.files.items():
        if not (path / name).is_file() or digest.sha256_file(path / name) != sha256:
            raise PlanError(Problem(f"{path.name}/{name}", "is missing or damaged"))
    return found.state


def restore(path: Path, of: Trainee) -> None:
    """Put a checkpoint's masters, weights, optimizer state and average back."""
    with weights.open_weights(path / "adapter.safetensors") as file, torch.no_grad():
        for name, master in of.masters.items():
            master.copy_(file.load(name))
            of.weights[name].copy_(master)
    device = next(iter(of.masters.values())).device
    home = torch.device("cpu") if of.program.compute.paged_optimizer else device
    with weights.open_weights(path / "optimizer.safetensors") as file:
        for name in file:
            owner, _, key = name.rpartition("/")
            if owner.startswith(GROUP):
                group = of.optimizer.param_groups[int(owner.removeprefix(GROUP))]
                group[key] = _entry(file.load(name), device)
            else:
                # A count of steps stays on the host, as torch has it.
                place = torch.device("cpu") if key == "step" else home
                of.optimizer.state[of.masters[owner]][key] = _entry(file.load(name), place)
    if of.ema is not None:
        with weights.open_weights(path / "ema.safetensors") as file:
            of.ema.updates = int(file.load(UPDATES))
            for name, shadow in of.ema.shadow.items():
                shadow.copy_(file.load(name))


def _optimizer_tensors(of: Trainee) -> dict[str, Tensor]:
    """`NAME/key` -> every parameter's state; `group 0/key` -> what a group knows beside what the plan gave it."""
    optimizer = of.optimizer
    entries: dict[str, Any] = {
        f"{name}/{key}": value
        for name, master in of.masters.items()
        for key, value in optimizer.state[master].items()
    }
    for number, group in enumerate(optimizer.param_groups):
        for key, value in group.items():
            if isinstance(value, Tensor) or value != optimizer.defaults.get(key):
                entries[f"{GROUP}{number}/{key}"] = value
    numbers = {
        name: torch.tensor(value, dtype=NUMBERS[type(value)])
        for name, value in entries.items()
        if type(value) in NUMBERS
    }
    return {name: value for name, value in entries.items() if isinstance(value, Tensor)} | numbers


def _entry(value: Tensor, device: torch.device) -> Tensor | bool | int | float:
    """A tensor on the device, or the number that it was."""
    return value.item() if value.dim() == 0 and value.dtype in NUMBERS.values() else value.to(device)
