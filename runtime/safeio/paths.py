"""Paths that came from outside: kept inside their root, opened only if they are plain files, shown safely.

- A path in a plan or a data set is relative, POSIX, in plain form and in Unicode NFC, so that the same files
  give the same text on every system.
- On disk the same name may be in another normal form (copied from a Mac): it is found all the same.
- Links may point anywhere inside the root and nowhere else.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import stat
import unicodedata
from pathlib import Path

from runtime.errors import InputError, LoracError, Problem

DRIVE = re.compile(r"[A-Za-z]:")


def inside(
    root: str | os.PathLike[str], relative: str, *, where: str = "", error: type[LoracError] = InputError
) -> Path:
    """The real path of `relative` below `root`, links resolved. The file need not exist.

    Refuses, with `error` (`where` names the place the path was read from): absolute paths, `..`, backslashes,
    drives and UNC names, names not in plain or NFC form, NUL, and links that leave the root.
    """
    shown = where or relative
    reason = _fault(relative)
    if reason:
        what = f"path {relative!r} {reason}" if where else reason
        raise error(Problem(shown, what, "use a path relative to the folder, with forward slashes"))
    base = Path(os.path.realpath(root))
    path = base
    for part in relative.split("/"):
        path = _on_disk(path, part)
    try:
        real = path.resolve()
    except (OSError, RuntimeError) as loop:  # Python 3.11 raises RuntimeError for a loop of links
        raise error(Problem(shown, f"path {relative!r} is a loop of links", "remove the link")) from loop
    if not real.is_relative_to(base):
        what = f"path {relative!r} is a link that leaves its folder"
        raise error(Problem(shown, what, "copy the file into the folder"))
    return real


def relative_name(root: str | os.PathLike[str], path: str | os.PathLike[str]) -> str:
    """The text by which a plan names a file below `root`: relative, POSIX, NFC; `inside` finds it again.

    Raises InputError where the name cannot be written down (not UTF-8, a backslash, a drive) and
    ValueError where `path` is not below `root`.
    """
    name = unicodedata.normalize("NFC", Path(path).relative_to(root).as_posix())
    reason = _fault(name)
    if reason:
        raise InputError(Problem(display(path), f"its name {reason}", "rename the file"))
    return name


def open_file(path: str | os.PathLike[str]) -> io.BufferedReader:
    """A plain file opened for reading. Raises InputError for all else: nothing there, a folder, a pipe."""
    try:
        # Without O_NONBLOCK, opening a pipe waits for ever for its writer.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:
        raise InputError(Problem(display(path), _why_closed(error))) from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = "a folder" if stat.S_ISDIR(mode) else "not a plain file"
        raise InputError(
            Problem(display(path), f"is {kind}, not a file" if kind == "a folder" else f"is {kind}")
        )
    return os.fdopen(descriptor, "rb")


def cache_folder() -> Path:
    """Where digests, latents, traces and plans are kept between runs: $LORAC_CACHE or ~/.cache/lorac."""
    return Path(os.environ.get("LORAC_CACHE") or Path.home() / ".cache" / "lorac")


def display(path: str | os.PathLike[str]) -> str:
    """A path as messages show it: relative to the current folder where it is below it, POSIX.

    Control characters are left to `errors.visible`, which every Problem passes through.
    """
    shown = Path(path)
    if shown.is_absolute():
        with contextlib.suppress(ValueError, OSError):  # it is elsewhere, or the current folder is gone
            shown = shown.relative_to(Path.cwd())
    return shown.as_posix()


def _fault(relative: str) -> str:
    """What is wrong with a relative path as text; empty if nothing is."""
    try:
        relative.encode("utf-8")
    except UnicodeEncodeError:
        return "is not UTF-8"
    if not relative:
        return "is empty"
    if "\0" in relative:
        return "has a NUL character"
    if "\\" in relative:
        return "has a backslash"
    if relative.startswith("/") or DRIVE.match(relative):
        return "is absolute"
    parts = relative.split("/")
    if ".." in parts:
        return "leaves its folder with `..`"
    if "" in parts or "." in parts:
        return "is not in its plain form"
    if unicodedata.normalize("NFC", relative) != relative:
        return "is not in Unicode's NFC form"
    return ""


def _on_disk(folder: Path, name: str) -> Path:
    """The entry called `name`, or else the one whose name is the same in NFC."""
    path = folder / name
    if name.isascii() or os.path.lexists(path):
        return path
    try:
        entries = [entry.name for entry in folder.iterdir()]
    except OSError:
        return path
    same = sorted(entry for entry in entries if unicodedata.normalize("NFC", entry) == name)
    return folder / same[0] if same else path


def _why_closed(error: OSError | ValueError) -> str:
    if isinstance(error, ValueError):
        return "is not a possible file name"
    reasons = {
        errno.ENOENT: "does not exist",
        errno.ENOTDIR: "does not exist",
        errno.EACCES: "cannot be read: no permission",
        errno.EPERM: "cannot be read: no permission",
        errno.ELOOP: "is a loop of links",
        errno.ENXIO: "is not a plain file",
        errno.ENAMETOOLONG: "is not a possible file name",
    }
    return reasons.get(error.errno or 0, f"cannot be read: {error.strerror}")
