"""Writing so that a reader never sees half a file: a killed or failed write leaves old or new, never a mix.

- A file is written under a temporary name in its own folder, fsynced, renamed over the old one, and the
  folder is fsynced: after `writing` returns, the bytes survive a power cut.
- The temporary is `.NAME.XXXXXXXX.partial`. Its writer holds a `flock` on it, so `sweep` removes what a crash
  left behind and nothing that is still being written, whichever process writes it. Where a file system has no
  locks, nothing is swept.
- A file gets the mode that the umask asks for (0666 & ~umask), unlike `tempfile`'s 0600.
- A symbolic link at the target's place is replaced, not followed.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from runtime.errors import MachineError, Problem
from runtime.safeio.paths import display

try:
    import fcntl
except ImportError:  # Windows: a file that is open there cannot be removed, so the lock is not missed
    fcntl = None  # type: ignore[assignment]

PARTIAL = re.compile(r"\..+\.[0-9a-f]{8}\.partial")
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
WRITE_FAULTS = FULL | {errno.EIO, errno.EROFS, errno.ESTALE}
FREE_SPACE = "free some space, then run the same command again"


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Replace the file at `path` by `data`, whole or not at all. Raises MachineError."""
    with writing(path, size=len(data)) as file:
        file.write(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Replace the file at `path` by `text` as UTF-8, line ends as given. Raises MachineError."""
    write_bytes(path, text.encode("utf-8"))


class _File(io.BufferedWriter):
    """Hides its descriptor: Pillow's encoders would write to it themselves, and lose why the disk refused."""

    def fileno(self) -> int:
        raise io.UnsupportedOperation("fileno")

    def descriptor(self) -> int:
        return super().fileno()


@contextlib.contextmanager
def writing(path: str | os.PathLike[str], size: int | None = None) -> Iterator[BinaryIO]:
    """A binary file to write to; it takes `path`'s place when the block ends, and is removed if it raises.

    `size` is how many bytes are going to be written, if known: a full disk is then reported with the need.
    Raises MachineError for every fault of the disk; other exceptions of the block pass through.
    """
    target = Path(path)
    temporary: Path | None = None
    replaced = False
    try:
        temporary, file = _create(target)
        try:
            yield file
            file.flush()
            os.fsync(file.descriptor())
            if fcntl is None:
                file.close()  # Windows cannot rename an open file; elsewhere closing would end the lock
            temporary.replace(target)
            replaced = True
        finally:
            with contextlib.suppress(OSError):  # a full disk fails once more on close; the first error counts
                file.close()
        fsync_folder(target.parent)
    except BaseException as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and _is_ours(error, target, temporary):
            raise _disk_error(error, target, size, replaced) from error
        raise


@contextlib.contextmanager
def making_folder(final: str | os.PathLike[str]) -> Iterator[Path]:
    """A new, empty, hidden folder to fill: it becomes `final` when the block ends or is removed if it raises.

    What is in it is fsynced before the rename. Raises MachineError, also where `final` is there already.
    """
    target = Path(final)
    partial = _partial_name(target)
    try:
        partial.mkdir()
    except OSError as error:
        raise _disk_error(error, target) from error
    lock = _lock_folder(partial)
    try:
        yield partial
        publish_folder(partial, target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        if lock is not None:
            os.close(lock)


def publish_folder(partial: str | os.PathLike[str], final: str | os.PathLike[str]) -> None:
    """Give a finished folder its name: fsync all that is in it, rename it, fsync the parent.

    Both names must be on one file system. Raises MachineError, also where `final` is there and not empty.
    """
    source, target = Path(partial), Path(final)
    try:
        for folder, _, names in os.walk(source):
            for name in names:
                _fsync_file(Path(folder, name))
            fsync_folder(Path(folder))
        source.rename(target)
        fsync_folder(target.parent)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            what = "cannot be put in place: something of that name is there already"
            raise MachineError(Problem(display(target), what, f"move {display(target)} away")) from error
        raise _disk_error(error, target) from error


def remove_folder(folder: str | os.PathLike[str]) -> None:
    """Remove a folder with all in it: a crash leaves it whole, or no longer there under its name."""
    path = Path(folder)
    partial = _partial_name(path)
    path.rename(partial)
    shutil.rmtree(partial)


def sweep(folder: str | os.PathLike[str]) -> list[Path]:
    """Remove what crashed writers left in `folder` (not below it): this module's temporary files and folders.

    Returns what was removed. A temporary that some process is still writing is left alone.
    """
    removed = []
    for path in sorted(Path(folder).iterdir()):
        if PARTIAL.fullmatch(path.name) and not path.is_symlink() and _remove_if_stale(path):
            removed.append(path)
    return removed


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable: a rename is on disk only after this (POSIX)."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows cannot open a folder
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems have no folder fsync
            raise
    finally:
        os.close(descriptor)


def _fsync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _partial_name(target: Path) -> Path:
    stem = os.fsencode(target.name)[:200]  # the longest name a file system takes is 255 bytes
    return target.with_name(f".{stem.decode(errors='ignore')}.{secrets.token_hex(4)}.partial")


def _create(target: Path) -> tuple[Path, _File]:
    """A new temporary beside `target`, open and locked."""
    while True:
        temporary = _partial_name(target)
        file = _File(io.FileIO(temporary, "x"))  # "x": mode 0666 less the umask, and never an existing file
        _lock(file.descriptor())
        if temporary.exists():  # else a sweeper came between the creation and the lock
            return temporary, file
        file.close()


def _lock(descriptor: int) -> bool:
    """Whether this process now holds the lock. It ends with the process, however that ends."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _lock_folder(folder: Path) -> int | None:
    if not hasattr(os, "O_DIRECTORY"):
        return None
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    _lock(descriptor)
    return descriptor


def _remove_if_stale(path: Path) -> bool:
    is_folder = path.is_dir()
    try:
        descriptor = None if fcntl is None else os.open(path, os.O_RDONLY)
        try:
            if descriptor is not None and not _lock(descriptor):
                return False
            shutil.rmtree(path) if is_folder else path.unlink()
        finally:
            if descriptor is not None:
                os.close(descriptor)
    except OSError:
        return False
    return True


def _is_ours(error: OSError, target: Path, temporary: Path | None) -> bool:
    """Whether an error came from this write, and not from something else that the caller's block did."""
    if error.filename is None:
        return error.errno in WRITE_FAULTS
    names = {os.fspath(path) for path in (target, target.parent, temporary) if path is not None}
    return temporary is None or os.fsdecode(error.filename) in names


def _disk_error(
    error: OSError, target: Path, size: int | None = None, replaced: bool = False
) -> MachineError:
    where = display(target)
    if replaced:
        what = f"is written, but the disk did not confirm it ({error.strerror}): a power cut may undo it"
        return MachineError(Problem(where, what, "check the disk"))
    kept = "the old file is intact" if target.exists() else "no file was left behind"
    if error.errno in FULL:
        need = f"{size:,} bytes were needed, " if size is not None else ""
        what = f"cannot be written: the disk is full ({need}{_free(target.parent)} are free); {kept}"
        return MachineError(Problem(where, what, FREE_SPACE))
    reasons = {
        errno.ENOENT: ("its folder does not exist", f"make the folder {display(target.parent)}"),
        errno.EACCES: ("no permission to write there", f"check who owns {display(target.parent)}"),
        errno.EPERM: ("no permission to write there", f"check who owns {display(target.parent)}"),
        errno.EROFS: ("the file system is read-only", "choose a folder that can be written to"),
        errno.EISDIR: ("it is a folder", f"move {display(target)} away"),
        errno.ENAMETOOLONG: ("its name is too long", "choose a shorter name"),
    }
    why, hint = reasons.get(error.errno or 0, (error.strerror or str(error), "check the disk"))
    return MachineError(Problem(where, f"cannot be written: {why}; {kept}", hint))


def _free(folder: Path) -> str:
    try:
        return f"{shutil.disk_usage(folder).free:,}"
    except OSError:
        return "0"
