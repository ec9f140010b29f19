"""Entries on disk: whole or missing, whatever happens to the file."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.data.entries import Entries

KEY = "ab" * 32
TENSORS = {"mean": torch.arange(12.0).reshape(3, 2, 2), "ids": torch.tensor([1, 2, 3])}


def same(found, wanted) -> bool:
    return set(found) == set(wanted) and all(torch.equal(found[name], wanted[name]) for name in wanted)


def file_of(folder):
    (path,) = folder.rglob("*.safetensors")
    return path


def test_what_was_written_is_read_by_another_process(tmp_path):
    Entries(tmp_path).write(KEY, TENSORS)

    found = Entries(tmp_path).read(KEY)
    assert same(found, TENSORS)
    assert found["ids"].dtype == torch.int64
    assert file_of(tmp_path).relative_to(tmp_path).as_posix() == f"ab/{KEY}.safetensors"


def test_what_was_not_written_is_missing(tmp_path):
    entries = Entries(tmp_path / "nothing")

    assert entries.read(KEY) is None
    assert entries.damaged == 0


@given(st.integers(0, 10_000), st.integers(1, 255))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_byte_anywhere_is_never_read_as_whole(tmp_path, place, flip):
    Entries(tmp_path).write(KEY, TENSORS)
    data = bytearray(file_of(tmp_path).read_bytes())
    data[place % len(data)] ^= flip
    file_of(tmp_path).write_bytes(data)

    entries = Entries(tmp_path)
    found = entries.read(KEY)
    assert found is None or same(found, TENSORS)
    assert entries.damaged == (found is None)


@pytest.mark.parametrize("length", [0, 7, 8, 50, -1])
def test_a_truncated_entry_is_missing(tmp_path, length):
    Entries(tmp_path).write(KEY, TENSORS)
    file_of(tmp_path).write_bytes(file_of(tmp_path).read_bytes()[:length])

    entries = Entries(tmp_path)
    assert entries.read(KEY) is None
    assert entries.damaged == 1


def test_entries_stay_in_memory_up_to_the_budget(tmp_path):
    size = sum(tensor.nbytes for tensor in TENSORS.values())
    entries = Entries(tmp_path, budget=size)
    entries.write(KEY, TENSORS)
    entries.write("cd" * 32, TENSORS)
    for path in tmp_path.rglob("*.safetensors"):
        path.unlink()

    assert same(entries.read(KEY), TENSORS)
    assert entries.read("cd" * 32) is None
