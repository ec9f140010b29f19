"""`lorac doctor` names what would stop a run, each with its mend, and trains one step for real."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lorac import doctor
from lorac.doctor import Finding
from tests.lorac.calling import call


def test_a_package_that_is_not_there_or_too_old_is_named_with_the_command_that_mends_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = ["no-such-package>=2", "torch>=99", 'only-extra>=1; extra == "dev"', "attrs>=25.1"]
    monkeypatch.setattr(doctor, "requires", lambda name: wanted)

    missing, old = doctor.packages()

    assert (missing.found, missing.mend) == ("is not installed", "pip install 'no-such-package>=2'")
    assert "but lorac needs >=99" in old.found and old.mend == "pip install -U 'torch>=99'"


def test_a_folder_that_takes_no_files_is_told(tmp_path: Path) -> None:
    (tmp_path / "output").write_text("a file in its place")

    found = doctor.folder("output", tmp_path / "output" / "run")

    assert not found.is_well and "cannot be written to" in found.found
    assert doctor.folder("output", tmp_path / "new" / "run").found.startswith(f"{tmp_path}: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["output"]


def test_little_room_on_the_disk_says_how_much_to_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "LITTLE_DISK", 2**60)
    assert doctor.folder("cache", tmp_path).mend.startswith("free ")


def test_a_smoke_run_that_fails_ends_in_the_run_s_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []

    def run(command: list[str], **how: Any) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        failed = "lorac" in command
        return subprocess.CompletedProcess(
            command, 5 * failed, "", "error: disk: is full\nhint: free 2 GiB\n" * failed
        )

    assert doctor.smoke(run) == Finding("smoke run", "disk: is full", "free 2 GiB")
    assert calls[1][-3:] == ["lorac", "run", "spec.py"]


def test_one_step_is_trained_for_real() -> None:
    assert doctor.smoke() == Finding("smoke run", "one step trained on the CPU, and a LoRA written")


def test_the_command_ends_with_the_environment_s_exit_code_where_something_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = [Finding("python", "3.11.7"), Finding("memory", "1.00 GiB available", "close other programs")]
    monkeypatch.setattr(doctor, "examine", lambda root: iter(found))

    called = call("doctor")
    assert called.code == 5
    assert (
        called.out
        == "ok   python: 3.11.7\nBAD  memory: 1.00 GiB available\n     mend: close other programs\n"
    )
    assert [one["check"] for one in json.loads(call("doctor", "--json").out)] == ["python", "memory"]
    monkeypatch.setattr(doctor, "examine", lambda root: iter(found[:1]))
    assert call("doctor").code == 0
