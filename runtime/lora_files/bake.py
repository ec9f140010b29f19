"""Adapters into a base: W + Σ weight · alpha / rank · B @ A, tensor by tensor, in the base's own layout and dtype: of
a tensor that fuses several weights, such as q, k and v, into the rows of each.

Each sum is taken in float32 and rounded once. Everything that no adapter changes is copied byte for byte.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import torch
from torch import Tensor

from runtime import plan
from runtime.errors import InputError, Problem
from runtime.lora_files import keys
from runtime.lora_files.adapter import Adapter, Update
from runtime.lora_files.bases import Model, Stored
from runtime.lora_files.factors import change
from runtime.lora_files.keys import brief
from runtime.lora_files.merge import Weighted
from runtime.lora_files.names import Place, placed
from runtime.lora_files.rebuilt import Tell
from runtime.lora_files.save import Mark
from runtime.safeio import atomic, paths, safetensors

Terms = list[tuple[Update, float]]
"""What is added to a weight: updates, each with its strength."""

OWN = "take its own base"
ELSEWHERE: dict[plan.Layout, str] = {
    "single_file": f"{OWN}; as a diffusers folder, if it is: a single file holds a few weights in another form",
    "diffusers": OWN,
    "transformers": OWN,
}
"""What to do where a weight is not found, by the base's layout."""

PICKLED = {".bin", ".ckpt", ".pt", ".pth"}


@attrs.frozen
class Baked:
    """`changed`: weights changed; `left_out`: files of the base that would hold the old weights."""

    changed: int
    left_out: tuple[str, ...]


def bake(weighted: Sequence[Weighted], model: Model, out: Path, mark: Mark, tell: Tell) -> Baked:
    """Write the base with the adapters in it. Raises InputError, before anything is written, for every module that
    the base lacks or has in another size."""
    changes = _changes(weighted, model)
    by_file: dict[Path, dict[str, dict[Stored, Terms]]] = {file: {} for file in model.files}
    for place, terms in changes.items():
        for stored in model.weights[place]:
            by_file[stored.file].setdefault(stored.name, {})[stored] = terms
    progress = _Progress(tell, sum(len(model.listing(file)) for file in by_file))
    if model.layout == "single_file":
        _write(model, model.path, out, by_file[model.path], mark, progress)
        return Baked(len(changes), ())
    with atomic.making_folder(out) as folder:
        left_out = _copy_others(model, folder)
        for file, terms_of in by_file.items():
            target = folder / file.relative_to(model.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            _write(model, file, target, terms_of, mark, progress)
    return Baked(len(changes), tuple(left_out))


@attrs.define
class _Progress:
    tell: Tell
    total: int
    done: int = 0

    def step(self, name: str) -> None:
        self.tell(name, self.done / self.total)
        self.done += 1


def _changes(weighted: Sequence[Weighted], model: Model) -> dict[Place, Terms]:
    """(component, weight) -> what is added to it."""
    found: dict[Place, Terms] = {}
    problems = []
    for one in weighted:
        shown = paths.display(one.adapter.path)
        for place, update in modules_of(one.adapter, model).items():
            weight = (place[0], f"{place[1]}.weight")
            if weight not in model.weights:
                problems.append(
                    Problem(shown, f"the base has no {brief('.'.join(weight))}", ELSEWHERE[model.layout])
                )
                continue
            shape = model.info(model.weights[weight][0]).shape
            if not _fits(update, shape):
                what = f"{brief(update.prefix)} does not fit the base's weight of {tuple(shape)}"
                problems.append(Problem(shown, what, "take the base that it was trained on"))
                continue
            found.setdefault(weight, []).append((update, one.weight))
    if problems:
        raise InputError(problems)
    return found


def modules_of(adapter: Adapter, model: Model) -> Mapping[Place, Update]:
    """Which module of the base each update changes. Raises InputError for names that are none of its modules'."""
    updates = adapter.updates
    if model.names is not None:
        places = placed(adapter, model.names).places
        return {place: updates[at] for at, place in places.items()}
    others = [at[1] for at in updates if not at[1].startswith(keys.PEFT_PREFIX)]
    if others:
        shown, what = paths.display(adapter.path), f"{brief(others[0])} is no name in PEFT's style"
        raise InputError(Problem(shown, what, "a language model's adapter has PEFT's names"))
    return {(keys.WHOLE, at[1].removeprefix(keys.PEFT_PREFIX)): update for at, update in updates.items()}


def _fits(update: Update, shape: Sequence[int]) -> bool:
    """Whether the change can be made of this shape, without making it where the factors tell."""
    if update.down is None or update.up is None:
        return change(update, shape) is not None
    sides = (update.up.shape[0], update.down.shape[1])
    if update.embedding:
        return sides[::-1] == tuple(shape)
    kernel = update.parts["mid"].shape[2:] if "mid" in update.parts else update.down.shape[2:]
    plain = tuple(kernel) if tuple(kernel) != (1, 1) else ()
    own = tuple(shape[2:]) if tuple(shape[2:]) != (1, 1) else ()
    return (*sides, *plain) == (*shape[:2], *own)


def _write(
    model: Model,
    file: Path,
    target: Path,
    terms_of: Mapping[str, Mapping[Stored, Terms]],
    mark: Mark,
    progress: _Progress,
) -> None:
    def load(name: str) -> Tensor:
        progress.step(name)
        weight = model.load(Stored(file, name))
        if name not in terms_of:
            return weight
        total = weight.to(torch.float32, copy=True)
        for stored, terms in terms_of[name].items():
            rows = total[stored.first : stored.last]
            for update, strength in terms:
                added = change(update, rows.shape)
                assert added is not None, "looked at before"
                rows += added * strength
        return total.to(weight.dtype)

    metadata = {**model.metadata(file), **mark.metadata}
    if model.found is not None:
        metadata["lorac.base_digest"] = model.found.base.digest
    metadata = {key: value for key, value in metadata.items() if key != "modelspec.hash_sha256"}
    with torch.inference_mode():
        safetensors.write_each(target, model.listing(file), load, metadata)


def _copy_others(model: Model, folder: Path) -> list[str]:
    """Copy every file of the base but its weights; what was left out: pickled weights, which would be the old ones."""
    left_out = []
    mine = set(model.files)
    for file in sorted(model.path.rglob("*")):
        relative = file.relative_to(model.path)
        if file.is_dir() or file in mine or any(part.startswith(".") for part in relative.parts):
            continue
        beside_ours = any(own.parent == file.parent for own in mine)
        if file.suffix in PICKLED and beside_ours:
            left_out.append(relative.as_posix())
            continue
        (folder / relative).parent.mkdir(parents=True, exist_ok=True)
        with paths.open_file(file) as old, atomic.writing(folder / relative, file.stat().st_size) as new:
            shutil.copyfileobj(old, new, 1 << 20)
    return left_out
