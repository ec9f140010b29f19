"""Digests are right, many at once, and remembered only while the file is the same."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from runtime.errors import InputError
from runtime.safeio import digest
from tests.runtime.safeio.refusals import refusal


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are really read."""
    names: list[str] = []
    real = digest.sha256_file

    def counted(path: str | os.PathLike[str]) -> str:
        names.append(Path(path).name)
        return real(path)

    monkeypatch.setattr(digest, "sha256_file", counted)
    return names


def old_file(name: str, content: bytes) -> Path:
    """A file whose last change is long enough ago to be trusted."""
    path = Path(name)
    path.write_bytes(content)
    return path


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "SETTLED", -1.0)


def test_a_digest_is_the_files_sha256() -> None:
    path = old_file("a", b"abc")

    assert digest.sha256_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_many_digests_come_in_the_order_asked() -> None:
    wanted = {
        old_file(f"{i}", bytes([i]) * 1000): hashlib.sha256(bytes([i]) * 1000).hexdigest() for i in range(50)
    }

    found = digest.sha256_files(reversed(wanted))

    assert list(found.items()) == list(reversed(wanted.items()))


def test_all_that_cannot_be_read_is_said_at_once() -> None:
    Path("folder").mkdir()
    old_file("good", b"x")

    assert refusal(InputError, digest.sha256_files, ["gone", "good", "folder"]) == [
        "error: gone: does not exist",
        "error: folder: is a folder, not a file",
    ]


def test_a_known_file_is_not_read_again(settled: None, reads: list[str]) -> None:
    files = [old_file("a", b"1"), old_file("b", b"2")]
    first = digest.DigestCache("cache").sha256_files(files)

    again = digest.DigestCache("cache").sha256_files(files)

    assert again == first == digest.sha256_files(files)
    assert sorted(reads) == ["a", "a", "b", "b"]  # once for the cache, once by the last line


def test_a_changed_file_is_read_again_though_size_and_time_are_the_same(settled: None) -> None:
    path = old_file("a", b"1")
    cache = digest.DigestCache("cache")
    cache.sha256_files([path])
    stamp = path.stat()

    path.write_bytes(b"2")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))

    assert cache.sha256_files([path])[path] == hashlib.sha256(b"2").hexdigest()


def test_what_was_forgotten_is_read_again(settled: None, reads: list[str]) -> None:
    path = old_file("a", b"abc")
    digest.DigestCache("cache").sha256_file(path)

    digest.forget(Path("cache"))
    digest.forget(Path("cache"))
    digest.DigestCache("cache").sha256_file(path)

    assert reads == ["a", "a"]


def test_a_file_of_this_moment_is_not_remembered(reads: list[str]) -> None:
    path = old_file("a", b"1")
    cache = digest.DigestCache("cache")

    cache.sha256_files([path])
    cache.sha256_files([path])

    assert reads == ["a", "a"]


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"\xff\xfe\x00",
        b'["/x", 1, 2',
        b"[1, 2, 3, 4, 5, 6]\n{}\nnull\n",
        b'{"a": NaN}\n' * 3,
        b"[" * 5000,
    ],
)
def test_a_damaged_cache_counts_for_nothing_and_is_appended_to(
    settled: None, reads: list[str], damage: bytes
) -> None:
    path = old_file("a", b"1")
    Path("cache").mkdir()
    Path("cache/digests.jsonl").write_bytes(damage)

    assert digest.DigestCache("cache").sha256_files([path])[path] == hashlib.sha256(b"1").hexdigest()
    digest.DigestCache("cache").sha256_files([path])

    assert reads == ["a"]


def test_a_cache_that_has_grown_is_written_anew(settled: None, reads: list[str]) -> None:
    path = old_file("a", b"1")
    digest.DigestCache("cache").sha256_files([path])
    file = Path("cache/digests.jsonl")
    file.write_bytes(file.read_bytes() * 2000)

    digest.DigestCache("cache").sha256_files([path])

    assert file.read_bytes().count(b"\n") == 1
    assert reads == ["a"]


def test_a_cache_that_cannot_be_written_is_done_without(settled: None) -> None:
    path = old_file("a", b"1")
    Path("cache").write_bytes(b"a file where the folder should be")

    assert digest.DigestCache("cache").sha256_file(path) == hashlib.sha256(b"1").hexdigest()
