"""SHA-256 of files: alone, many at once, and remembered between plans.

The cache serves planning, where the same thousands of pictures are hashed again and again. What decides
whether a run may start (`lorac run`, `lorac verify`) calls `sha256_files` and never the cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from runtime.errors import InputError, MachineError, Problem
from runtime.safeio.atomic import write_text
from runtime.safeio.paths import display, open_file

WORKERS = 8
"""Threads: hashing releases the interpreter's lock, and more than this waits on the disk."""

BATCH = 64
"""Files that a thread is given at once, where there are enough: a file alone costs more to hand over than to hash."""

SETTLED = 2.0
"""Seconds since a file's last change before its digest is remembered: file systems stamp times as
coarsely as 2 s (FAT), and a second change within one stamp would go unseen."""

CACHE_LIMIT = 2**30
"""Bytes of the cache that are read at most: some five million files."""
LONGEST_LINE = 64 * 2**10
REMEMBERED = "digests.jsonl"
Digest = str
Stamp = tuple[int, int, int, int]


def sha256_file(path: str | os.PathLike[str]) -> Digest:
    """The file's SHA-256, 64 lower-case hex digits. Raises InputError."""
    try:
        with open_file(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(Problem(display(path), f"cannot be read: {error.strerror}")) from error


def sha256_files(paths: Iterable[str | os.PathLike[str]]) -> dict[Path, Digest]:
    """The digests of many files, read in parallel, in the given order. One InputError has all problems."""
    return _all_of([Path(path) for path in paths], sha256_file)


def forget(folder: Path) -> None:
    """Remember no digest any longer: the next one asked for is of what the file holds. Raises MachineError."""
    try:
        (folder / REMEMBERED).unlink(missing_ok=True)
    except OSError as error:
        raise MachineError(
            Problem(str(folder / REMEMBERED), f"cannot be removed: {error.strerror}")
        ) from None


class DigestCache:
    """Digests remembered in `folder/digests.jsonl`: one JSON object a line, the last one for a path counts.

    A digest is taken as known while the file's size, inode and times of change are the same. Damaged lines
    count for nothing; a cache that cannot be written is done without. Several processes may append at once.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = Path(folder) / REMEMBERED
        self._loaded: dict[str, tuple[Stamp, Digest]] | None = None

    def sha256_file(self, path: str | os.PathLike[str]) -> Digest:
        """As the function of this name, reading the file only if it changed. Raises InputError."""
        return self.sha256_files([path])[Path(path)]

    def sha256_files(self, paths: Iterable[str | os.PathLike[str]]) -> dict[Path, Digest]:
        """As the function of this name, reading only files that changed. Raises InputError."""
        wanted = [Path(path) for path in paths]
        known = self._known if wanted else {}
        new: dict[str, tuple[Stamp, Digest]] = {}

        def digest(path: Path) -> Digest:
            key, before = str(path.absolute()), _stamp(path)
            stamp, sha256 = known.get(key, (None, ""))
            if before is not None and stamp == before:
                return sha256
            found = sha256_file(path)
            if before is not None and before == _stamp(path) and _settled(before):
                new[key] = (before, found)
            return found

        digests = _all_of(wanted, digest)
        known.update(new)
        with contextlib.suppress(OSError):
            self._append("".join(_line(*item) for item in new.items()))
        return digests

    @property
    def _known(self) -> dict[str, tuple[Stamp, Digest]]:
        """What is remembered, read when it is first asked for: some hundred bytes a file."""
        if self._loaded is None:
            self._loaded, lines = _load(self.path)
            if lines > 2 * len(self._loaded) + 1000:
                with contextlib.suppress(MachineError):
                    write_text(self.path, "".join(_line(*item) for item in self._loaded.items()))
        return self._loaded

    def _append(self, lines: str) -> None:
        if not lines:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            # The newline first: a line that a crash cut short must not swallow ours.
            os.write(descriptor, ("\n" + lines).encode())
        finally:
            os.close(descriptor)


def _all_of(paths: list[Path], digest: Callable[[Path], Digest]) -> dict[Path, Digest]:
    def attempt(batch: list[Path]) -> list[Digest | list[Problem]]:
        return [_or_problems(digest, path) for path in batch]

    size = max(1, min(BATCH, len(paths) // (4 * WORKERS)))
    batches = [paths[at : at + size] for at in range(0, len(paths), size)]
    with ThreadPoolExecutor(WORKERS) as pool:
        results = [result for batch in pool.map(attempt, batches) for result in batch]
    problems = [problem for result in results if isinstance(result, list) for problem in result]
    if problems:
        raise InputError(problems)
    return {path: result for path, result in zip(paths, results, strict=True) if isinstance(result, str)}


def _or_problems(digest: Callable[[Path], Digest], path: Path) -> Digest | list[Problem]:
    try:
        return digest(path)
    except InputError as error:
        return error.problems


def _stamp(path: Path) -> Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns


def _settled(stamp: Stamp) -> bool:
    return time.time() - max(stamp[2], stamp[3]) / 1e9 > SETTLED


def _line(path: str, entry: tuple[Stamp, Digest]) -> str:
    return json.dumps([path, *entry[0], entry[1]]) + "\n"


def _load(path: Path) -> tuple[dict[str, tuple[Stamp, Digest]], int]:
    """What the file remembers, and how many lines it has; what lies past CACHE_LIMIT is not read."""
    known: dict[str, tuple[Stamp, Digest]] = {}
    lines = size = 0
    try:
        file = open_file(path)
    except InputError:
        return known, 0
    with file:
        while size < CACHE_LIMIT and (line := file.readline(LONGEST_LINE)):
            lines, size = lines + 1, size + len(line)
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):  # half a line, no UTF-8, nested without end
                continue
            if isinstance(entry, list) and [type(item) for item in entry] == [str, int, int, int, int, str]:
                known[entry[0]] = ((entry[1], entry[2], entry[3], entry[4]), entry[5])
    return known, lines
