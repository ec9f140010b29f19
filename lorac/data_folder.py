"""What lies in a data folder: pictures by the name that the plan gives them, and what cannot be used.

- Pictures are found in folders at any depth. Hidden files and folders (`.DS_Store`, `._0001.jpg`) are
  passed over.
- A name is relative, POSIX and NFC, so it is the same on every machine; links may lead anywhere inside the
  folder.
- kohya's repeat folders: below a first-level folder `10_name` every picture is seen 10 times an epoch.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import attrs

from runtime.errors import InputError, Problem
from runtime.safeio import paths
from runtime.safeio.images import SUFFIXES

CAPTIONS = (".csv", ".jsonl", ".txt")
OTHER_PICTURES = {".avif", ".bmp", ".gif", ".heic", ".heif", ".ico", ".jp2", ".jxl", ".svg", ".tif", ".tiff"}
VIDEOS = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"}
ARCHIVES = {".7z", ".gz", ".rar", ".tar", ".zip"}
MOST_REPEATS = 10_000
GIVE = "give the folder of pictures as data.path"

REPEAT_FOLDER = re.compile(r"([0-9]+)_(.*)", re.DOTALL)
"""kohya's own rule: a number, an underscore, the class name (docs/train_README of sd-scripts)."""


@attrs.frozen(kw_only=True)
class Folder:
    """`pictures` and `others` map a name to where the file is; `bad` are files that the plan cannot take."""

    root: Path
    pictures: dict[str, Path]
    others: dict[str, Path]
    bad: dict[str, Problem]

    def shown(self, name: str) -> str:
        """A name as messages show it."""
        return paths.display(self.root / name)


def read_folder(root: Path) -> Folder:
    """Everything below `root`, by name, in the order of the names. Raises InputError without any pictures."""
    if not root.is_dir():
        what = "is a file, not a folder" if root.is_file() else "does not exist"
        hint = "unpack it" if root.suffix.lower() in ARCHIVES else GIVE
        raise InputError(Problem(paths.display(root), what, hint))
    files: dict[str, Path] = {}
    bad: dict[str, Problem] = {}
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            bad[folder.as_posix()] = Problem(paths.display(folder), f"cannot be read: {error.strerror}")
            continue
        for entry in entries:
            path = Path(entry.path)
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                continue
            if entry.is_dir(follow_symlinks=False):
                waiting.append(path)
            else:
                _add(root, path, entry.is_symlink(), files, bad)
    pictures = {name: files[name] for name in sorted(files) if _suffix(name) in SUFFIXES}
    others = {name: files[name] for name in sorted(files) if name not in pictures}
    for name, path in others.items():
        bad |= _other_media(name, paths.display(path))
    if not pictures:
        raise InputError([_no_pictures(root, others), *(problem for _, problem in _by_place(bad))])
    return Folder(root=root, pictures=pictures, others=others, bad=dict(_by_place(bad)))


def repeats_of(name: str) -> tuple[int, str]:
    """Repeats and class name that kohya's folder name asks for; (1, "") outside such folders."""
    first, _, rest = name.partition("/")
    match = REPEAT_FOLDER.fullmatch(first) if rest else None
    return (int(match[1]), match[2].strip()) if match else (1, "")


def _add(root: Path, path: Path, is_link: bool, files: dict[str, Path], bad: dict[str, Problem]) -> None:
    shown = paths.display(path)
    try:
        name = paths.relative_name(root, path)
        if is_link:
            paths.inside(root, name)
    except InputError as error:
        if _suffix(path.name) in (*SUFFIXES, *CAPTIONS):
            problem = error.problems[0]
            what = problem.what.rpartition("' ")[2]  # without the name, which is in front already
            bad[path.as_posix()] = Problem(shown, what, problem.hint)
        return
    if is_link and path.is_dir():
        bad[name] = Problem(shown, "is a link to a folder", "put the folder itself there")
    elif name in files:
        bad[name] = Problem(shown, "has the same name as another file, in another Unicode form", "rename one")
    else:
        files[name] = path


def _by_place(bad: dict[str, Problem]) -> list[tuple[str, Problem]]:
    return sorted(bad.items(), key=lambda entry: entry[1].where)


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def _other_media(name: str, shown: str) -> dict[str, Problem]:
    """The problem of a file that was surely meant to be trained on; empty for any other file."""
    suffix = _suffix(name)
    if suffix in VIDEOS:
        what = f"is a video ({suffix}), and this family takes pictures"
        return {name: Problem(shown, what, "move the videos elsewhere")}
    if suffix in OTHER_PICTURES:
        what = f"is a {suffix} picture; accepted are {' '.join(SUFFIXES)}"
        return {name: Problem(shown, what, "convert it to .png, or move it elsewhere")}
    return {}


def _no_pictures(root: Path, others: Iterable[str]) -> Problem:
    counts = Counter(_suffix(name) or "without a suffix" for name in others)
    types = ", ".join(f"{n:,} {suffix}" for suffix, n in sorted(counts.items(), key=lambda c: (-c[1], c[0])))
    what = f"has no pictures: found {types or 'no files'}; accepted are {' '.join(SUFFIXES)}"
    return Problem(paths.display(root), what, GIVE)
