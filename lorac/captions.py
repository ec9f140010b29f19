"""The caption of each picture of a data folder.

- Captions come from one source: data.metadata_path, else metadata.csv or metadata.jsonl in the folder, else
  text files beside the pictures. As in kohya's trainer, a repeat folder `10_name` without any text file is
  captioned `name`; unlike there, a picture without a text file among others that have one is an error.
- A caption becomes one line: Unicode NFC, runs of white space as one space, ends stripped. It is text and
  nothing else: no template, format code or escape in it is ever looked at.
- Everything wrong is collected: a picture that is not in the answer has its problem in the list.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path, PurePosixPath

from lorac import caption_tables
from lorac.data_folder import Folder, repeats_of
from lorac.spec import Images
from lorac.subsets import is_prior
from runtime.errors import InputError, Problem
from runtime.safeio import paths, texts

TABLES = ("metadata.csv", "metadata.jsonl")
LONGEST = 10_000
"""Characters of a caption: no text encoder reads a tenth of that, and a megabyte is a mistake."""

EMPTY = "caption is empty"
OPTIONAL = 'set Images(captions="optional")'


def captions_of(images: Images, folder: Folder, spec_folder: Path) -> tuple[dict[str, str], list[Problem]]:
    """Final captions by picture, and the problems. data.metadata_path is relative to `spec_folder`."""
    try:
        table = _table(images, folder, spec_folder)
        if table is None:
            raw, problems = _from_sidecars(images, folder)
        else:
            raw, problems = _from_table(images, folder, table)
    except InputError as error:
        return {}, error.problems
    final = {}
    for name, text in raw.items():
        caption = clean(text)
        if wrong := _fault(images, caption):
            problems.append(Problem(folder.shown(name), *wrong))
        else:
            triggered = images.prepend_trigger and not is_prior(images, name)
            final[name] = with_trigger(caption, images.trigger) if triggered else caption
    return final, problems


def clean(caption: str) -> str:
    """A caption as it is trained: NFC, one line, stripped."""
    return " ".join(unicodedata.normalize("NFC", caption).split())


def with_trigger(caption: str, trigger: str) -> str:
    """The caption with the trigger words before it, unless it has them as whole words already."""
    trigger = clean(trigger)
    if re.search(rf"(?<!\w){re.escape(trigger.casefold())}(?!\w)", caption.casefold()):
        return caption
    return f"{trigger}, {caption}" if caption else trigger


def _fault(images: Images, caption: str) -> tuple[str, str] | None:
    """What is wrong with a clean caption, and the hint."""
    if not caption and images.captions == "required":
        return EMPTY, f"write one, or {OPTIONAL}"
    if "\0" in caption:
        return "caption has a NUL character", "save the file as UTF-8, without NUL"
    if len(caption) > LONGEST:
        what = f"caption is {len(caption):,} characters long; at most {LONGEST:,} are taken"
        return what, "shorten it"
    return None


# ----------------------------------------------------------------------------------------------------- tables


def _table(images: Images, folder: Folder, spec_folder: Path) -> Path | None:
    """The metadata file to read, if there is one. Raises InputError for two, or an unknown kind."""
    if images.metadata_path is not None:
        path = spec_folder / images.metadata_path
        if path.suffix.lower() not in (".csv", ".jsonl"):
            what = "is not a .csv or .jsonl file"
            raise InputError(Problem(paths.display(path), what, "give such a file as data.metadata_path"))
        return path
    here = [name for name in TABLES if name in folder.others]
    if len(here) > 1:
        what = f"has both {here[0]} and {here[1]}"
        raise InputError(
            Problem(paths.display(folder.root), what, "keep one, or name one as data.metadata_path")
        )
    return folder.others[here[0]] if here else None


def _from_table(images: Images, folder: Folder, table: Path) -> tuple[dict[str, str], list[Problem]]:
    rows, problems = caption_tables.read(table)
    raw: dict[str, str] = {}
    lines: dict[str, str] = {}
    astray = []
    for row in rows:
        name = _name(row.image)
        if name in lines:
            what = f"{row.image} has a row already, at {lines[name]}"
            problems.append(Problem(row.where, what, "keep one of the two rows"))
        elif name in folder.pictures:
            raw[name], lines[name] = row.caption, row.where
        elif name not in folder.bad:
            astray.append(row)
    if astray:
        places = {PurePosixPath(name).name: name for name in reversed(folder.pictures)}
        problems += [_astray(row, folder, places) for row in astray]
    missing = [name for name in folder.pictures if name not in raw]
    if images.captions == "optional":
        return {**raw, **dict.fromkeys(missing, "")}, problems
    what = f"has no row in {paths.display(table)}"
    return raw, problems + [
        Problem(folder.shown(name), what, f"add the row, or {OPTIONAL}") for name in missing
    ]


def _name(written: str) -> str:
    """A row's path as pictures are named; what is no such name stays as it is."""
    return unicodedata.normalize("NFC", written).removeprefix("./")


def _astray(row: caption_tables.Row, folder: Folder, places: dict[str, str]) -> Problem:
    """Why a row's picture is not among the pictures; `places` finds them by the last part of their name."""
    name = _name(row.image)
    if not name:
        return Problem(row.where, "names no picture", "write its path, relative to the folder")
    try:
        paths.inside(folder.root, name, where=row.where)
    except InputError as error:
        return error.problems[0]
    if name in folder.others:
        return Problem(row.where, f"{row.image} is not a picture", "name the picture itself")
    place = places.get(PurePosixPath(name).name)
    hint = f"it is at {place}: write that path" if place else "remove the row, or put the picture there"
    return Problem(row.where, f"{row.image} does not exist", hint)


# --------------------------------------------------------------------------------------------------- sidecars


def _from_sidecars(images: Images, folder: Folder) -> tuple[dict[str, str], list[Problem]]:
    suffix = images.caption_extension
    captioned = {_top(name) for name in folder.others if name.endswith(suffix)}
    raw: dict[str, str] = {}
    owners: dict[str, str] = {}
    problems = []
    for name in folder.pictures:
        sidecar = f"{name.rpartition('.')[0]}{suffix}"
        if sidecar in owners:
            what = f"shares the caption {PurePosixPath(sidecar).name} with {owners[sidecar]}"
            hint = "rename one of the two pictures, and give it its own caption"
            problems.append(Problem(folder.shown(name), what, hint))
        elif sidecar in folder.others:
            owners[sidecar] = PurePosixPath(name).name
            try:
                raw[name] = read_sidecar(folder.others[sidecar])
            except InputError as error:
                problems += error.problems
        elif repeats_of(name)[1] and _top(name) not in captioned:
            raw[name] = repeats_of(name)[1]
        elif images.captions == "optional":
            raw[name] = ""
        else:
            problems.append(_no_caption(name, suffix, folder))
    if not raw and not owners and problems:
        raise InputError(_no_captions(problems, folder))
    return raw, problems


def read_sidecar(path: Path) -> str:
    """The text of a caption file, as written. Raises InputError."""
    most = 4 * LONGEST  # UTF-8 takes at most four bytes a character
    with paths.open_file(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        what = f"caption is longer than {LONGEST:,} characters"
        raise InputError(Problem(paths.display(path), what, "shorten it"))
    return texts.decode(data, path)


def _top(name: str) -> str:
    return name.partition("/")[0]


def _no_caption(name: str, suffix: str, folder: Folder) -> Problem:
    """A picture without a caption, and where it may be."""
    shown, stem = folder.shown(name), name.rpartition(".")[0]
    for other in (".txt", ".caption", ".TXT", ".text"):
        if other != suffix and stem + other in folder.others:
            what = f"has no {suffix} caption, but there is {PurePosixPath(stem).name}{other}"
            return Problem(shown, what, f'set Images(caption_extension="{other}")')
    hint = f"write each caption beside its picture (0001{suffix}), or in metadata.csv, or {OPTIONAL}"
    return Problem(shown, "has no caption", hint)


def _no_captions(problems: list[Problem], folder: Folder) -> Problem:
    """The same for a folder in which no picture has one."""
    hint = problems[0].hint
    deeper = next((name for name in folder.others if PurePosixPath(name).name in TABLES), "")
    if deeper:
        inner = folder.shown(str(PurePosixPath(deeper).parent))
        hint = f"{deeper} is in an inner folder: set data.path to {inner}"
    return Problem(paths.display(folder.root), f"none of its {len(problems):,} pictures has a caption", hint)
