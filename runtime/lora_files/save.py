"""An adapter to its file or folder: atomically, its metadata carried over, marked with what it was made of.

The mark is also how a file of the same origin is known, which alone is overwritten unasked.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import attrs
from torch import Tensor

from runtime.errors import LoracError, Problem, SpecError
from runtime.export.metadata import hashes
from runtime.lora_files.adapter import CARRIED_CONFIGS, IN_DIFFUSERS, PEFT_CONFIG, PEFT_FILES, Adapter, packed
from runtime.lora_files.configs import config
from runtime.lora_files.keys import WHOLE
from runtime.safeio import atomic, paths, safetensors, strict_json

HASHES = ("sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256")
FORCE = "give another place, or replace it with --force"


@attrs.frozen
class Mark:
    """What a file was made of: each source's sha256, with its weight where it had one."""

    done: Literal["converted", "merged", "resized", "extracted"]
    sources: tuple[str, ...]

    @property
    def metadata(self) -> dict[str, str]:
        return {f"lorac.{self.done}_from": " ".join(self.sources)}


def claim(out: Path, mark: Mark, force: bool) -> None:
    """Raise SpecError where something is at `out` that was not made of the same: to be asked before the work."""
    if not os.path.lexists(out):
        return
    shown = paths.display(out)
    if out.is_dir():
        held = sorted(out.iterdir())
        files = [*out.glob(PEFT_FILES[0]), *out.glob(f"*/{PEFT_FILES[0]}")]
        if held and not (files and (force or all(_same(file, mark) for file in files))):
            raise SpecError(Problem(shown, "is a folder that holds something else", "give another place"))
    elif not force and not _same(out, mark):
        raise SpecError(Problem(shown, "is there already and is not made of the same", FORCE))


def save(adapter: Adapter, out: Path, mark: Mark) -> list[Path]:
    """Write an adapter: PEFT's style as a folder (one below for each component of a pipeline), others as a file.

    Returns the files. Raises SpecError for a name that does not fit the style, MachineError for the disk.
    """
    if adapter.style == "peft":
        return _save_folder(adapter, out, mark)
    metadata = {**adapter.metadata, **mark.metadata}
    if mark.done != "converted" and "modelspec.title" in metadata:
        metadata["modelspec.title"] = out.stem
    if adapter.style == "kohya":
        metadata.pop(IN_DIFFUSERS, None)  # with alpha tensors beside it, diffusers refuses the file
        metadata |= _called(metadata, out.stem)
        if adapter.configs:
            metadata[CARRIED_CONFIGS] = strict_json.canonical(dict(adapter.configs)).strip()
    else:
        metadata.setdefault("format", "pt")
        configs = {
            component: config(updates.values(), adapter.configs.get(component))
            for component, updates in adapter.components.items()
            if component in adapter.configs or any(update.alpha is not None for update in updates.values())
        }
        if configs:
            metadata[IN_DIFFUSERS] = packed(configs)
    _write(out, dict(adapter.tensors()), metadata, hashed=adapter.style == "kohya")
    return [out]


def check_name(out: Path, style: str) -> None:
    """Raise SpecError for a place whose name does not say what it will be."""
    if style != "peft" and out.suffix != ".safetensors":
        raise SpecError(Problem(paths.display(out), "must end in .safetensors"))
    if style == "peft" and out.suffix:
        what = "must be a folder's name: PEFT's adapters are folders"
        raise SpecError(Problem(paths.display(out), what, f"write to {out.with_suffix('').as_posix()}"))


def _save_folder(adapter: Adapter, out: Path, mark: Mark) -> list[Path]:
    components = adapter.components
    written = []
    for component, updates in components.items():
        folder = out if set(components) == {WHOLE} else out / component
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SpecError(Problem(paths.display(folder), f"cannot be made: {error.strerror}")) from error
        stated = config(updates.values(), adapter.configs.get(component))
        tensors = {update.names[part]: t for update in updates.values() for part, t in update.parts.items()}
        rest = adapter.rest if set(components) == {WHOLE} else {}
        metadata = {"format": "pt", **adapter.metadata, **mark.metadata}
        metadata.pop(IN_DIFFUSERS, None)
        _write(folder / PEFT_FILES[0], {**tensors, **rest}, metadata, hashed=False)
        atomic.write_text(folder / PEFT_CONFIG, strict_json.canonical(dict(stated)))
        written += [folder / PEFT_FILES[0], folder / PEFT_CONFIG]
    return written


def _called(metadata: Mapping[str, str], name: str) -> dict[str, str]:
    """The metadata by which prompts call a file, `<lora:NAME:1>`, for its new name."""
    old = metadata.get("ss_output_name")
    if not old:
        return {}
    hint = metadata.get("modelspec.usage_hint")
    renamed = {"modelspec.usage_hint": hint.replace(f"<lora:{old}:", f"<lora:{name}:")} if hint else {}
    return {"ss_output_name": name, **renamed}


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], hashed: bool) -> None:
    """`hashed`: with the hashes that kohya's trainer writes and WebUI trusts, made anew."""
    kept = {key: value for key, value in metadata.items() if key not in HASHES}
    found = hashes(tensors, {key: value for key, value in kept.items() if key.startswith("ss_")})
    if any(key.startswith("modelspec.") for key in kept):
        kept["modelspec.hash_sha256"] = f"0x{found.body}"
    if hashed:
        kept |= {"sshs_model_hash": found.body, "sshs_legacy_hash": found.legacy}
    safetensors.write(path, tensors, kept, finite=False)


def _same(path: Path, mark: Mark) -> bool:
    try:
        found = safetensors.read_header(path).metadata
    except LoracError:
        return False
    return all(found.get(key) == value for key, value in mark.metadata.items())
