"""Checkpoints: whole or not there, hashed, and enough to go on with the very same bytes.

- There is no iterator and no generator state to keep: order and noise are functions of (seed, step, sample).
- The newest two or more are kept; a damaged one is passed over, with a line, for the one before.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import attrs
import torch
from torch import Tensor

from runtime import evaluate, log, plan
from runtime.errors import LoracError, PlanError, Problem
from runtime.safeio import atomic, digest, safetensors, strict_json, weights
from runtime.step import Trainee

DONE = "DONE.json"


@attrs.frozen(kw_only=True)
class State:
    """What is known at a step besides tensors.

    `micro_batch` is what the run had stepped down to; `notes` say what did not go as planned; `started_at` is
    ISO 8601, UTC. `held_out` is what was measured after a step, by its number.
    """

    step: int
    micro_batch: int
    seconds: float
    losses: tuple[float, ...]
    notes: tuple[str, ...]
    started_at: str
    held_out: dict[str, evaluate.HeldOut] = attrs.field(factory=dict)

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
    """Write a checkpoint; `extra` are more files to keep in it, such as the LoRA itself. Its folder."""
    final = folder(root, state.step)
    if final.exists():  # a run that went back and comes by again writes the same bytes
        shutil.rmtree(final)
    root.mkdir(parents=True, exist_ok=True)
    with atomic.making_folder(final) as made:
        safetensors.write(made / "adapter.safetensors", {n: p.detach() for n, p in of.masters.items()})
        safetensors.write(made / "optimizer.safetensors", _optimizer_tensors(of))
        for name, data in extra.items():
            atomic.write_bytes(made / name, data)
        hashes = {path.name: digest.sha256_file(path) for path in sorted(made.iterdir())}
        done = Receipt(plan_hash=plan_hash, state=state, files=hashes)
        atomic.write_text(made / DONE, strict_json.canonical(plan.unstructure(done)))
    return final


def prune(root: Path, keep: int) -> None:
    """Keep the newest `keep` whole checkpoints."""
    for path in whole(root)[:-keep]:
        shutil.rmtree(path)


def whole(root: Path) -> list[Path]:
    """Checkpoints that were finished, oldest first."""
    return sorted(path.parent for path in root.glob(f"step-*/{DONE}"))


def newest(root: Path, plan_hash: str) -> tuple[Path, State] | None:
    """The newest undamaged checkpoint of this plan, or None."""
    if root.exists():
        atomic.sweep(root)
    for path in reversed(whole(root)):
        try:
            return path, _verified(path, plan_hash)
        except LoracError as error:
            log.warn(f"checkpoint {path.name} is passed over: {error}")
    return None


def receipt(path: Path) -> Receipt:
    """A finished checkpoint's receipt. Raises InputError or PlanError for a damaged one."""
    return plan.structure(strict_json.read(path / DONE), Receipt, f"{path.name}/{DONE}")


def _verified(path: Path, plan_hash: str) -> State:
    found = receipt(path)
    if found.plan_hash != plan_hash:
        raise PlanError(Problem(path.name, "is of another plan"))
    for name, sha256 in found.files.items():
        if not (path / name).is_file() or digest.sha256_file(path / name) != sha256:
            raise PlanError(Problem(f"{path.name}/{name}", "is missing or damaged"))
    return found.state


def restore(path: Path, of: Trainee) -> None:
    """Put a checkpoint's masters, weights and optimizer state back."""
    with weights.open_weights(path / "adapter.safetensors") as file, torch.no_grad():
        for name, master in of.masters.items():
            master.copy_(file.load(name))
            of.weights[name].copy_(master)
    with weights.open_weights(path / "optimizer.safetensors") as file:
        for name in file:
            owner, _, key = name.rpartition("/")
            master = of.masters[owner]
            value = file.load(name)
            of.optimizer.state[master][key] = value if key == "step" else value.to(master.device)


def _optimizer_tensors(of: Trainee) -> dict[str, Tensor]:
    """`NAME/key` -> tensor, for every parameter's state."""
    return {
        f"{name}/{key}": value
        for name, master in of.masters.items()
        for key, value in of.optimizer.state[master].items()
    }
