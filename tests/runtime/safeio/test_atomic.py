"""Old or new, never a mix: for failed writes, full disks and killed writers."""

from __future__ import annotations

import errno
import io
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runtime.errors import MachineError
from runtime.safeio import atomic
from tests.faults import fault
from tests.runtime.safeio.refusals import refusal

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def names() -> list[str]:
    return sorted(path.name for path in Path().iterdir())


def test_a_write_replaces_the_whole_file() -> None:
    atomic.write_bytes("a.bin", b"old and longer")
    atomic.write_bytes("a.bin", b"new")

    assert Path("a.bin").read_bytes() == b"new"
    assert names() == ["a.bin"]


def test_text_is_written_as_utf8_with_its_own_line_ends() -> None:
    atomic.write_text("a.txt", "é\r\n\n")

    assert Path("a.txt").read_bytes() == b"\xc3\xa9\r\n\n"


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o000, 0o666)])
def test_a_file_has_the_mode_that_the_umask_asks_for(mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        atomic.write_bytes("a.bin", b"x")
    finally:
        os.umask(before)

    assert Path("a.bin").stat().st_mode & 0o777 == mode


def test_a_block_that_raises_leaves_the_old_file_and_no_temporary() -> None:
    atomic.write_bytes("a.bin", b"old")

    with pytest.raises(KeyboardInterrupt), atomic.writing("a.bin") as file:
        file.write(b"half")
        raise KeyboardInterrupt

    assert Path("a.bin").read_bytes() == b"old"
    assert names() == ["a.bin"]


def test_an_error_of_the_block_itself_is_not_taken_for_the_disks() -> None:
    with pytest.raises(FileNotFoundError, match="elsewhere"), atomic.writing("a.bin"):
        Path("elsewhere").read_bytes()

    assert names() == []


def test_a_link_is_replaced_and_what_it_points_at_is_left_alone() -> None:
    Path("theirs").write_bytes(b"theirs")
    Path("a.bin").symlink_to("theirs")

    atomic.write_bytes("a.bin", b"ours")

    assert Path("theirs").read_bytes() == b"theirs"
    assert not Path("a.bin").is_symlink()


def test_a_name_of_the_greatest_length_can_be_written() -> None:
    name = "é" * 127
    atomic.write_bytes(name, b"x")

    assert names() == [name]


def test_a_missing_folder_is_named() -> None:
    assert refusal(MachineError, atomic.write_bytes, "gone/a.bin", b"x") == [
        "error: gone/a.bin: cannot be written: its folder does not exist; no file was left behind",
        "hint: make the folder gone",
    ]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_pillow_writing_into_it_meets_the_disks_own_error(kind: str) -> None:
    from PIL import Image

    picture = Image.frombytes("RGB", (256, 256), random.Random(0).randbytes(256 * 256 * 3))
    with (
        limited_to(10_000),
        pytest.raises(MachineError, match="the disk is full"),
        atomic.writing("a") as file,
    ):
        picture.save(file, kind)

    assert names() == []


class limited_to:
    """The kernel refuses files larger than this, as a full disk does."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __enter__(self) -> None:
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.before[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


@pytest.mark.parametrize("old", [b"old", None])
def test_a_file_size_limit_leaves_the_old_file_and_says_what_was_needed(
    old: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if old is not None:
        atomic.write_bytes("a.bin", old)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9000, 1000, 8000))

    with limited_to(50_000):
        lines = refusal(MachineError, atomic.write_bytes, "a.bin", bytes(100_000))

    kept = "the old file is intact" if old else "no file was left behind"
    need = "100,000 bytes were needed, 8,000 are free"
    assert lines == [
        f"error: a.bin: cannot be written: the disk is full ({need}); {kept}",
        "hint: free some space, then run the same command again",
    ]
    assert names() == (["a.bin"] if old else [])
    assert old is None or Path("a.bin").read_bytes() == old


FULL_DISK = """
import sys
from runtime.errors import MachineError
from runtime.safeio import atomic
atomic.write_bytes("a.bin", b"old")
try:
    atomic.write_bytes("a.bin", bytes(1_000_000))
except MachineError as error:
    print(error.lines()[0])
print(open("a.bin", "rb").read(), __import__("os").listdir("."))
try:
    with atomic.making_folder("step-1") as folder:
        atomic.write_bytes(folder / "w", bytes(1_000_000))
except MachineError as error:
    print(error.lines()[0].split(": cannot")[1])
print(__import__("os").listdir("."))
"""


def test_a_disk_that_is_really_full_leaves_the_old_file() -> None:
    script = (
        f'mount -t tmpfs -o size=128k none . && cd "$PWD" && PYTHONPATH={ROOT} {sys.executable} -c "$SCRIPT"'
    )
    result = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script],
        env={**os.environ, "SCRIPT": FULL_DISK},
        capture_output=True,
        text=True,
        timeout=60,
    )
    if "unshare" in result.stderr or "mount" in result.stderr:
        pytest.skip("this machine does not let a test mount a small disk")

    first, kept, second, after = result.stdout.splitlines()
    assert first.startswith(
        "error: a.bin: cannot be written: the disk is full (1,000,000 bytes were needed, "
    )
    assert first.endswith(" are free); the old file is intact")
    assert kept == "b'old' ['a.bin']"
    assert second.endswith(" are free); no file was left behind")
    assert after == "['a.bin']"


class FailAt:
    """The n-th call of any of these fails, once."""

    def __init__(self, n: int) -> None:
        self.left = n
        self.fired = False

    def wrap(self, function):  # type: ignore[no-untyped-def]
        def call(*arguments, **named):  # type: ignore[no-untyped-def]
            self.left -= 1
            if self.left == 0:
                self.fired = True
                raise OSError(errno.EIO, "input/output error")
            return function(*arguments, **named)

        return call


@fault(
    "any one operation of a write fails (input/output error)",
    "the file is old or new, never a mix",
    code=5,
)
def test_whichever_operation_fails_the_file_is_old_or_new_and_nothing_else_is_left() -> None:
    outcomes = set()
    for n in range(1, 100):
        Path("a.bin").write_bytes(b"old")
        with pytest.MonkeyPatch.context() as patch:
            fault = FailAt(n)
            for owner, name in [
                (os, "open"),
                (os, "fsync"),
                (io, "FileIO"),
                (Path, "replace"),
                (os, "close"),
            ]:
                patch.setattr(owner, name, fault.wrap(getattr(owner, name)))
            try:
                atomic.write_bytes("a.bin", b"new")
                said = ""
            except MachineError as error:
                said = error.lines()[0]
        assert names() == ["a.bin"]
        outcomes.add((said, Path("a.bin").read_bytes()))
        if not fault.fired:
            break

    assert not fault.fired
    assert n > 5
    refused = "error: a.bin: cannot be written: input/output error; the old file is intact"
    unsure = "error: a.bin: is written, but the disk did not confirm it (input/output error): "
    unsure += "a power cut may undo it"
    assert outcomes == {(refused, b"old"), (unsure, b"new"), ("", b"new")}


WRITER = """
import sys
from runtime.safeio import atomic
print("ready", flush=True)
for i in range(10**9):
    atomic.write_bytes("a.bin", bytes([65 + i % 2]) * 3_000_000)
    with atomic.making_folder(f"step-{i}") as folder:
        atomic.write_bytes(folder / "w", b"w" * 100_000)
        atomic.write_bytes(folder / "DONE", b"done")
"""


def test_a_killed_writer_leaves_whole_files_and_what_sweep_takes_away() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    swept = 0
    for attempt in range(8):
        writer = subprocess.Popen([sys.executable, "-c", WRITER], env=environment, stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(0.01 + 0.011 * attempt)
        writer.send_signal(signal.SIGKILL)
        writer.communicate()

        swept += len(atomic.sweep("."))
        assert not [name for name in names() if name.endswith(".partial")]
        if Path("a.bin").exists():
            content = Path("a.bin").read_bytes()
            assert content in (b"A" * 3_000_000, b"B" * 3_000_000)
        for folder in Path().glob("step-*"):
            assert (folder / "w").read_bytes() == b"w" * 100_000
            assert (folder / "DONE").read_bytes() == b"done"
            shutil.rmtree(folder)

    assert swept > 0


def test_sweep_removes_what_a_crash_left_and_nothing_else() -> None:
    Path(".a.bin.0123abcd.partial").write_bytes(b"half")
    Path(".step-1.0123abcd.partial").mkdir()
    Path(".step-1.0123abcd.partial", "w").write_bytes(b"half")
    for other in ("a.partial", ".a.partial", ".a.bin.0123abcd.partial.txt", "a.bin.0123abcd.partial"):
        Path(other).write_bytes(b"theirs")
    Path(".link.0123abcd.partial").symlink_to("a.partial")

    removed = atomic.sweep(".")

    assert [path.name for path in removed] == [".a.bin.0123abcd.partial", ".step-1.0123abcd.partial"]
    assert len(names()) == 5


def test_sweep_leaves_what_is_being_written() -> None:
    with atomic.writing("a.bin") as file, atomic.making_folder("step-1") as folder:
        file.write(b"new")
        atomic.write_bytes(folder / "w", b"w")
        assert atomic.sweep(".") == []

    assert names() == ["a.bin", "step-1"]


def test_a_writer_whose_temporary_is_swept_before_it_is_locked_takes_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    locked = atomic._lock
    swept: list[Path] = []

    def late(descriptor: int) -> bool:
        if not swept:
            monkeypatch.setattr(atomic, "_lock", locked)
            swept.extend(atomic.sweep("."))
        return locked(descriptor)

    monkeypatch.setattr(atomic, "_lock", late)
    atomic.write_bytes("a.bin", b"new")

    assert len(swept) == 1
    assert Path("a.bin").read_bytes() == b"new"


def test_a_folder_appears_whole_or_not_at_all() -> None:
    with pytest.raises(ValueError, match="stop"), atomic.making_folder("step-1") as folder:
        (folder / "w").write_bytes(b"w")
        raise ValueError("stop")
    assert names() == []

    with atomic.making_folder("step-1") as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "w").write_bytes(b"w")
        assert not Path("step-1").exists()
    assert Path("step-1/deep/w").read_bytes() == b"w"


def test_a_folder_is_not_put_over_another() -> None:
    Path("step-1").mkdir()
    Path("step-1/w").write_bytes(b"theirs")

    def make() -> None:
        with atomic.making_folder("step-1") as folder:
            (folder / "w").write_bytes(b"ours")

    assert refusal(MachineError, make) == [
        "error: step-1: cannot be put in place: something of that name is there already",
        "hint: move step-1 away",
    ]
    assert Path("step-1/w").read_bytes() == b"theirs"
    assert names() == ["step-1"]


def test_a_folder_whose_removal_is_cut_short_is_no_longer_there_and_what_is_left_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "step-000000"
    folder.mkdir()
    (folder / "DONE.json").write_text("{}")
    (folder / "adapter.safetensors").write_bytes(b"x")

    def cut_short(path: Path) -> None:
        (path / "adapter.safetensors").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(atomic.shutil, "rmtree", cut_short)
        with pytest.raises(KeyboardInterrupt):
            atomic.remove_folder(folder)

    assert not folder.exists()
    assert len(atomic.sweep(tmp_path)) == 1
    assert not list(tmp_path.iterdir())
