"""What the runtime cannot do, or the machine has no room for, is refused before anything is loaded."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import attrs
import psutil
import pytest

from runtime import plan, preflight
from runtime.errors import MachineError
from tests.conftest import ROOT
from tests.faults import fault
from tests.runtime.plans import tiny_plan, where

HINT = "hint: make the plan again and review it: lorac plan SPEC"


# ------------------------------------------------------------------------------------------------ the machine


GIB = 2**30


def needing(of: plan.Plan, **estimate: int) -> plan.Plan:
    """The plan with other needs."""
    return plan.make(of.program, of.outputs, attrs.evolve(of.estimate, **estimate))


@fault(
    "less disk or memory than the run will need",
    "both are told at once, before it starts",
    code=5,
)
def test_a_full_disk_and_too_little_memory_are_told_at_once(
    tiny_base: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = needing(tiny_plan(tiny_base, tiny_data), disk_bytes=3 * GIB, cache_bytes=GIB, host_bytes=8 * GIB)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2 * GIB))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=6 * GIB))

    with pytest.raises(MachineError) as refused:
        preflight.check(of, where(of, tmp_path))

    assert refused.value.exit_code == 5
    assert refused.value.lines() == [
        f"error: {tmp_path}: the run will write 3.00 GiB, and 2.00 GiB are free on this disk",
        "error: memory: the run needs 8.00 GiB of the computer's memory, and 6.00 GiB are available",
        "hint: free 1.00 GiB there, or write elsewhere: --output, LORAC_CACHE",
        "hint: close other programs until 8.00 GiB are available",
    ]


def test_room_for_all_that_will_be_written_is_enough(
    tiny_base: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = needing(tiny_plan(tiny_base, tiny_data), disk_bytes=3 * GIB, cache_bytes=GIB, host_bytes=8 * GIB)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=3 * GIB))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=8 * GIB))

    preflight.check(of, where(of, tmp_path))


def test_a_run_that_goes_on_counts_only_what_it_has_still_to_write(
    tiny_base: Path, tiny_data: Path, tmp_path: Path
) -> None:
    of = needing(tiny_plan(tiny_base, tiny_data), disk_bytes=10_000, cache_bytes=4_000)
    places = where(of, tmp_path)
    new = {places.output: 6_000, places.cache: 4_000}
    assert preflight.still_to_write(of, places) == new

    plan.write(of, places.output / "plan.json")
    assert preflight.still_to_write(of, places) == new
    checkpoint = places.output / "checkpoints" / "step-000002"
    checkpoint.mkdir(parents=True)
    (checkpoint / "adapter.safetensors").write_bytes(b"x" * 2_500)
    assert preflight.still_to_write(of, places) == {places.output: 3_500, places.cache: 0}

    other = needing(tiny_plan(tiny_base, tiny_data, steps=2), disk_bytes=10_000, cache_bytes=4_000)
    assert preflight.still_to_write(other, places) == new


@fault(
    "a package of the plan is missing",
    "it is named, whatever versions are accepted",
    code=5,
)
def test_a_package_of_the_plan_that_is_not_installed_is_named(
    tiny_base: Path, tiny_data: Path, tmp_path: Path
) -> None:
    of = tiny_plan(tiny_base, tiny_data)
    versions = {**of.program.versions, "no-such-package": "1.0"}
    of = plan.make(attrs.evolve(of.program, versions=versions), of.outputs, of.estimate)
    with pytest.raises(MachineError) as raised:
        preflight.check(of, where(of, tmp_path / "output"), accept_versions=True)
    assert raised.value.lines()[0] == "error: no-such-package: is not installed, the plan was made with 1.0"


def test_a_plan_that_needs_more_than_there_is_ends_the_command_with_exit_code_5(
    tiny_base: Path, tiny_data: Path, tmp_path: Path
) -> None:
    of = needing(tiny_plan(tiny_base, tiny_data), disk_bytes=2**60, host_bytes=2**60)

    done = runtime_on(of, tmp_path)

    assert done.returncode == 5
    assert done.stderr.count("error: ") == 2
    assert not (tmp_path / "out").exists()


@fault(
    "a stale plan",
    "what changed is named, before torch is imported",
    code=4,
)
def test_a_stale_plan_is_refused_before_torch_is_imported(
    tiny_base: Path, tiny_data: Path, tmp_path: Path
) -> None:
    of = tiny_plan(tiny_base, tiny_data)
    stale = attrs.evolve(of.program, base=attrs.evolve(of.program.base, digest="0" * 64))

    done = runtime_on(plan.make(stale, of.outputs, of.estimate), tmp_path, "-X", "importtime")

    assert done.returncode == 4
    assert "the base changed since planning" in done.stderr
    assert not re.search(r"\| +(torch|diffusers|numpy)$", done.stderr, re.MULTILINE)


def test_a_data_folder_that_is_not_here_is_told_once_with_what_to_do(
    tiny_base: Path, tiny_data: Path, tmp_path: Path
) -> None:
    of = tiny_plan(tiny_base, tiny_data)
    assert preflight.data_problems(of.program.data, tiny_data) == []
    (problem,) = preflight.data_problems(of.program.data, tmp_path / "gone")
    assert str(problem) == f"{tmp_path / 'gone'}: the data is not here"
    assert problem.hint.endswith("or give its place with --data")


def runtime_on(of: plan.Plan, folder: Path, *python: str) -> subprocess.CompletedProcess[str]:
    """`python -m runtime` on a plan, in a folder."""
    file = folder / "plan.json"
    plan.write(of, file)
    command = [sys.executable, *python, "-m", "runtime", str(file), "--output", "out", "--log", "logs"]
    environment = {**os.environ, "LORAC_CACHE": str(folder / "cache"), "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
