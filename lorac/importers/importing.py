"""From another trainer's file to a spec on disk: read it, recognise it, convert it, render it.

- The format is recognised from what is in the file, never from its name; where several or none fit, that is an error.
- Nothing is written unless all went well, and no file is ever replaced.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

import attrs

from lorac.importers import IMPORTERS, Importer, importer, parse
from lorac.importers.ledger import Draft, Setting, as_name
from lorac.importers.render import render
from runtime import names
from runtime.errors import InputError, Problem, SpecError
from runtime.safeio import atomic, paths

SPECS = Path("specs")
LAST_NAME = "imported"
"""What an experiment is called whose source, and whose file, have no usable name."""

ABSENT = "not in the source: give the path"

WEIGHTS = (".safetensors", ".ckpt", ".gguf")
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@attrs.frozen(kw_only=True)
class Imported:
    """What was read, as what, what became of it, and the spec that was written."""

    source: Path
    title: str
    companions: dict[str, Path]
    draft: Draft
    spec: str
    path: Path


def import_file(source: Path, out: Path | None = None) -> Imported:
    """Turn a config, or a LoRA, into a spec at `out` (specs/NAME.py).

    Raises InputError for a file that is none lorac knows, SpecError where `out` exists.
    """
    config = parse.read(source)
    found = recognised(config, source)
    companions = dict(_companions(found.companions(config), source))
    try:
        draft = found.convert(config, {key: parse.read(path) for key, path in companions.items()})
    except InputError as error:
        where = paths.display(source)
        raise InputError([attrs.evolve(one, where=one.where or where) for one in error.problems]) from None
    name = _name(draft, source)
    path = out or SPECS / f"{name}.py"
    if path.exists():
        raise SpecError(Problem(str(path), "exists already", "name another with --out, or move it away"))
    draft = _complete(draft, name, source, path)
    spec = render(
        draft, source=source.name, title=found.TITLE, companions=[one.name for one in companions.values()]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic.write_text(path, spec)
    return Imported(
        source=source, title=found.TITLE, companions=companions, draft=draft, spec=spec, path=path
    )


def recognised(config: Any, source: Path) -> Importer:
    """The one importer whose data this is. Raises InputError."""
    found = [one for one in map(importer, IMPORTERS) if one.recognise(config)]
    if len(found) == 1:
        return found[0]
    where = paths.display(source)
    if not config:
        raise InputError(Problem(where, "is empty", "give a trainer's config, or a LoRA"))
    if found:
        titles = " and ".join(one.TITLE for one in found)
        raise InputError(Problem(where, f"could be {titles}", "keep one trainer's keys in the file"))
    known = ", ".join(importer(name).TITLE for name in IMPORTERS)
    keys = (
        f"its keys are {_some(config)}" if isinstance(config, Mapping) else "it is a list, not `key: value`"
    )
    raise InputError(
        Problem(where, f"is no trainer's config that lorac knows: {keys}", f"lorac knows {known}")
    )


def _some(config: Mapping[Any, Any]) -> str:
    shown = [str(key)[:40] for key in list(config)[:6]]
    return ", ".join(shown) + (", …" if len(config) > len(shown) else "") or "none at all"


def _companions(named: Mapping[str, str], source: Path) -> Iterator[tuple[str, Path]]:
    """The files that a config names and that are here: beside it, or where the trainer would have looked."""
    for key, text in named.items():
        written = Path(text.replace("\\", "/"))
        folders = (source.parent, Path.cwd(), source.parent.parent)
        places = [folder / written for folder in folders] + [folder / written.name for folder in folders]
        here = next((place for place in places if _is_there(place) and place.is_file()), None)
        if here is not None:
            yield key, here


def _name(draft: Draft, source: Path) -> str:
    """The source's own name for it, else its file's, else a plain one."""
    if "name" in draft.settings:
        return str(draft.settings["name"].value)
    name = as_name(source.stem)
    return name if name and not names.wrong(name) else LAST_NAME


def _complete(draft: Draft, name: str, source: Path, path: Path) -> Draft:
    """With what every spec must have, and with paths as they are seen from the spec's folder."""
    settings = dict(draft.settings)
    todo = list(draft.todo)
    settings.setdefault("name", Setting(name, ""))
    data = [place for place in draft.kinds if place.startswith("data.")] or ["data"]
    for field, otherwise in (
        ("base.path", "../models/BASE"),
        *((f"{place}.path", f"../data/{name}") for place in data),
    ):
        what = field.partition(".")[0]
        if field not in settings:
            settings[field] = Setting(otherwise, ABSENT)
            if not any(line.startswith(f"{what}:") for line in todo):
                todo.append(f"{what}: {paths.display(source)} names none; give its path")

    def seen(field: str, text: str) -> str:
        here = _here(text, source, hub=field == "base.path")
        if here is None:
            todo.append(f"base: {text!r} is a hub's name; lorac fetches nothing: give the folder or file")
        elif not _is_there(here):
            todo.append(f"{field.partition('.')[0]}: {text!r} is not here; give its path")
        if here is None or _is_fixed(text):
            return text
        return Path(os.path.relpath(here, path.absolute().parent)).as_posix()

    for field, setting in settings.items():
        if setting.comment == ABSENT:
            continue
        if field.endswith(".path") or field == "data.metadata_path":
            settings[field] = attrs.evolve(setting, value=seen(field, str(setting.value)))
        elif field == "base.parts":
            places = tuple(seen(field, str(one)) for one in setting.value)
            settings[field] = attrs.evolve(setting, value=places)
    return attrs.evolve(draft, settings=settings, todo=tuple(dict.fromkeys(todo)))


def _here(text: str, source: Path, hub: bool) -> Path | None:
    """The file or folder that a config's text means; None for the name of a base on a hub (`hub`).

    Trainers take paths from the folder they run in: that is this one, unless it lies beside the config.
    """
    if _is_fixed(text):
        return Path(text)
    plain = text.replace("\\", "/") if "/" not in text else text
    candidates = [Path.cwd() / plain, source.absolute().parent / plain]
    found = next((path for path in candidates if _is_there(path)), None)
    if (
        hub
        and found is None
        and HUB_NAME.fullmatch(text)
        and not text.startswith(".")
        and Path(text).suffix not in WEIGHTS
    ):
        return None
    return found or candidates[0]


def _is_fixed(text: str) -> bool:
    """Whether a path does not depend on a folder: absolute, on any system, or in the user's own."""
    return PureWindowsPath(text).is_absolute() or text.startswith(("/", "~"))


def _is_there(path: Path) -> bool:
    """Whether something is there; text that no path can be is nowhere."""
    try:
        return path.expanduser().exists()
    except (OSError, RuntimeError, ValueError):
        return False
