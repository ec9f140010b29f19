"""Writing a finished LoRA with all that belongs to it: every file, or none.

- Everything is written in a hidden folder beside, read back and compared; only then is it moved into
  place, one rename for each file, the manifest last. So a manifest means that its files are whole; a
  crash between the renames leaves new files without a manifest, and the same run puts that right.
- Files of another plan are never overwritten.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import attrs
import torch
from PIL.Image import Image
from torch import Tensor

from runtime import names
from runtime import plan as plans
from runtime.adapters import method
from runtime.errors import InputError, LoracError, MachineError, Problem, SpecError
from runtime.export import diffusers, embeddings, gguf, kohya, metadata, peft, pictures, sidecars
from runtime.export import manifest as manifests
from runtime.export.manifest import SUFFIX, Facts, Manifest
from runtime.export.weights import Weights, check, low_rank
from runtime.families import family
from runtime.plan import Plan
from runtime.safeio import atomic, digest, paths, safetensors, strict_json

ELSEWHERE = "give the experiment another name or output folder, or move the old files away"

UNMARKED = ""
"""Instead of a plan's hash, for a file that names none or cannot be read."""


@attrs.frozen
class _Tensors:
    """A safetensors file to be: its tensors and its metadata."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


Content = _Tensors | bytes


def export(folder: Path, weights: Weights, plan: Plan, facts: Facts, previews: Sequence[Image]) -> Manifest:
    """Write the LoRA's files into `folder` (made where it is not there) and return the manifest.

    The first preview becomes the LoRA's picture. Raises SpecError for a name that no prompt can call and
    for files of another plan, DivergedError for weights that are not finite, MachineError for a fault of
    the disk; the folder is then as it was.
    """
    name = plan.outputs.name
    check(weights, plan.program.adapter)
    contents = _contents(weights, plan, facts.steps, previews)
    if plan.outputs.gguf and (why_not := gguf.why_not(weights, plan)):
        note = f"there is no {gguf.file_name(plan)}: {why_not}"
        facts = attrs.evolve(facts, notes=(*facts.notes, note))
    modules = {
        component: len(adapted) for component, adapted in low_rank(weights, plan.program.adapter).items()
    }
    stage = folder / f".{name}.export"
    try:
        claim(folder, plan)
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir()
        for place in {(at / name).parent for at in (stage, folder) for name in contents}:
            place.mkdir(exist_ok=True)
        _fill(stage, contents)
        manifest = sidecars.manifest(stage, list(contents), plan, modules, facts)
        atomic.write_text(stage / f"{name}{SUFFIX}", strict_json.canonical(plans.unstructure(manifest)))
        _publish(stage, folder, [*contents, f"{name}{SUFFIX}"])
    except OSError as error:
        what = f"the LoRA cannot be written: {error.strerror}"
        raise MachineError(Problem(paths.display(folder), what, "check the disk, then run again")) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return manifest


def claim(folder: Path, plan: Plan) -> None:
    """Raise SpecError where `export` would refuse: a name that no prompt can call, files of another plan, a
    folder in a file's place. To be asked before the training, too.
    """
    name = plan.outputs.name
    wrong = names.wrong(name)
    if wrong:
        raise SpecError(Problem("name", f"{wrong}, got {name!r}", "give the experiment another name"))
    manifest, webui = f"{name}{SUFFIX}", f"{name}.safetensors"
    plain = (f"{name}.json", f"{name}.preview.png", *([gguf.file_name(plan)] if plan.outputs.gguf else []))
    named = (manifest, webui, diffusers.FILE, peft.FILE, *embeddings.file_names(plan.program.adapter))
    found = {file: _plan_of(folder / file) for file in named}
    ours = {None, plan.plan_hash} | ({UNMARKED} if found[manifest] == plan.plan_hash else set())
    other = [file for file, mark in found.items() if mark not in ours]
    if plan.plan_hash not in found.values():
        other += [file for file in plain if os.path.lexists(folder / file)]
    other += [file for file in (*found, *plain) if (folder / file).is_dir() and file not in other]
    if other:
        what = "is there already and is not of this plan"
        raise SpecError([Problem(paths.display(folder / file), what, ELSEWHERE) for file in other])


def lora_bytes(plan: Plan, weights: Weights, step: int) -> bytes:
    """The LoRA after `step` steps as its first consumer loads it, for a file called as `checkpoint_name` says."""
    kind = kinds(plan)[0]
    renamed = attrs.evolve(plan, outputs=attrs.evolve(plan.outputs, name=checkpoint_name(plan, step)))
    file = next(c for c in KINDS[kind](renamed, weights, step, None).values() if isinstance(c, _Tensors))
    return safetensors.serialise(file.tensors, file.metadata)


def checkpoint_files(plan: Plan, weights: Weights, step: int) -> dict[str, bytes]:
    """What a checkpoint holds for other programs: its LoRA, and its words' vectors in files called as the export's,
    since the LoRA's metadata call them so."""
    files = {f"{checkpoint_name(plan, step)}.safetensors": lora_bytes(plan, weights, step)}
    for name, file in _words(plan, weights).items():
        files[name] = safetensors.serialise(file.tensors, file.metadata)
    return files


def checkpoint_name(plan: Plan, step: int) -> str:
    """What a checkpoint's LoRA is called, in its file and in prompts."""
    return f"{plan.outputs.name}-{step:06}"


def finished(folder: Path, plan: Plan) -> Path | None:
    """The LoRA in `folder` if this plan's export is there and whole, its files as the manifest says."""
    path = folder / f"{plan.outputs.name}{SUFFIX}"
    if _plan_of(path) != plan.plan_hash:
        return None
    files = {folder / file.name: file.sha256 for file in manifests.read(path).files}
    try:
        found = digest.sha256_files(files)
    except InputError:
        return None
    if found != files:
        return None
    return next(file for file in files if file.suffix == ".safetensors")


def _contents(weights: Weights, plan: Plan, step: int, previews: Sequence[Image]) -> dict[str, Content]:
    """Every file but the manifest, in the order in which they are put in place."""
    contents: dict[str, Content] = {}
    for kind in kinds(plan):
        contents |= KINDS[kind](plan, weights, step, previews[0] if previews else None)
    return contents | _words(plan, weights)


def _words(plan: Plan, weights: Weights) -> dict[str, _Tensors]:
    """The files of words that have vectors of their own."""
    of, origin = family(plan.program.base.family), {"format": "pt", **metadata.origin(plan)}
    return {
        embeddings.file_name(word): _Tensors(embeddings.tensors(of, weights, word, plan), origin)
        for word in plan.program.adapter.words
    }


def kinds(plan: Plan) -> list[str]:
    """Of the kinds of files that the family's LoRAs are written in, those that hold the plan's method."""
    adapter = plan.program.adapter
    held = method(adapter.method).files(adapter)
    return [kind for kind in family(plan.program.base.family).EXPORTS if kind in held]


def _for_webui(plan: Plan, weights: Weights, step: int, picture: Image | None) -> dict[str, Content]:
    name = plan.outputs.name
    contents: dict[str, Content] = {
        f"{name}.safetensors": _webui_file(plan, weights, name, step, picture),
        f"{name}.json": sidecars.webui(plan).encode(),
    }
    if picture is not None:
        contents[f"{name}.preview.png"] = pictures.png(picture)
    return contents


def _for_diffusers(plan: Plan, weights: Weights, step: int, picture: Image | None) -> dict[str, Content]:
    return {diffusers.FILE: _diffusers_file(plan, weights)}


def _for_peft(plan: Plan, weights: Weights, step: int, picture: Image | None) -> dict[str, Content]:
    return {
        peft.FILE: _Tensors(peft.tensors(weights, plan), {"format": "pt", **metadata.origin(plan)}),
        peft.CONFIG: peft.config(weights, plan).encode(),
    }


def _for_gguf(plan: Plan, weights: Weights, step: int, picture: Image | None) -> dict[str, Content]:
    if not plan.outputs.gguf or gguf.why_not(weights, plan):
        return {}
    return {gguf.file_name(plan): gguf.content(weights, plan)}


KINDS: dict[str, Callable[[Plan, Weights, int, Image | None], dict[str, Content]]] = {
    "webui": _for_webui,
    "diffusers": _for_diffusers,
    "peft": _for_peft,
    "gguf": _for_gguf,
}
"""How a family's `EXPORTS` are written."""


def _webui_file(plan: Plan, weights: Weights, name: str, step: int, picture: Image | None) -> _Tensors:
    program = plan.program
    factors = low_rank(weights, program.adapter)
    tensors = kohya.tensors(family(program.base.family), factors, program.adapter, plan.outputs.dtype)
    thumbnail = pictures.thumbnail(picture) if picture is not None else ""
    return _Tensors(tensors, metadata.complete(plan, tensors, name, step, thumbnail))


def _diffusers_file(plan: Plan, weights: Weights) -> _Tensors:
    program = plan.program
    factors = low_rank(weights, program.adapter)
    tensors = diffusers.tensors(family(program.base.family), factors, program.adapter, plan.outputs.dtype)
    return _Tensors(tensors, {"format": "pt", **metadata.origin(plan)})


def _plan_of(path: Path) -> str | None:
    """The hash of the plan that a file came from; None where there is no file."""
    if not os.path.lexists(path):
        return None
    try:
        if path.suffix == ".safetensors":
            return safetensors.read_header(path).metadata.get("lorac.plan_hash", UNMARKED)
        return manifests.read(path).plan_hash
    except LoracError:
        return UNMARKED


def _fill(stage: Path, contents: Mapping[str, Content]) -> None:
    """Write every file, then read every file back and compare it with what was meant."""
    for name, content in contents.items():
        if isinstance(content, bytes):
            atomic.write_bytes(stage / name, content)
        else:
            safetensors.write(
                stage / name, content.tensors, content.metadata, header_limit=safetensors.WEBUI_HEADER
            )
    for name, content in contents.items():
        if isinstance(content, _Tensors):
            _compare(stage / name, content)
        elif (stage / name).read_bytes() != content:
            raise _unlike(stage / name)


def _compare(path: Path, meant: _Tensors) -> None:
    """What a reader other than our writer finds in the file: the same keys, values, finite, the hashes it
    states."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (it is no dict)
        stated = file.metadata()
    body = safetensors.body_sha256(path)
    if (
        stated != dict(meant.metadata)
        or stated.get("sshs_model_hash", body) != body
        or found.keys() != meant.tensors.keys()
        or not all(_equal(found[key], meant.tensors[key]) for key in found)
    ):
        raise _unlike(path)


def _equal(found: Tensor, meant: Tensor) -> bool:
    return found.dtype == meant.dtype and torch.equal(found, meant) and bool(found.isfinite().all())


def _unlike(path: Path) -> MachineError:
    what = "does not read back as it was written; nothing was put in place"
    return MachineError(Problem(path.name, what, "check the disk, then run again"))


def _publish(stage: Path, folder: Path, files: Sequence[str]) -> None:
    """Move the files into place, in order; an older manifest goes first, as it no longer tells the truth."""
    (folder / files[-1]).unlink(missing_ok=True)
    for file in files:
        (stage / file).replace(folder / file)
    for place in {(folder / file).parent for file in files}:
        atomic.fsync_folder(place)
