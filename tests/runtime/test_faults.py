"""Faults injected into runs: what each of them ends in, and that going on gives the bytes of an undisturbed run."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import attrs
import psutil
import pytest
from PIL import Image

from runtime import checkpoint, plan, preflight
from runtime.errors import Interrupted, MachineError, PlanError
from tests.faults import fault
from tests.life import SAID, Lives
from tests.runtime.plans import carry_out, tiny_plan, where


@pytest.fixture(scope="module")
def of(tiny_base: Path, tiny_data: Path) -> plan.Plan:
    return tiny_plan(tiny_base, tiny_data)


@pytest.fixture(scope="module")
def through(of: plan.Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a run that nothing disturbed."""
    return carry_out(of, tmp_path_factory.mktemp("through"))


@pytest.fixture(scope="module")
def lives() -> Lives:
    return Lives()


@pytest.fixture(scope="module")
def planned(of: plan.Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plan as a file."""
    file = tmp_path_factory.mktemp("planned") / "plan.json"
    plan.write(of, file)
    return file


def at(step: int, happens: Callable[[], object]) -> Callable[[int], None]:
    """A fault before one step."""

    def strike(now: int) -> None:
        if now == step:
            happens()

    return strike


@pytest.fixture
def data(tiny_data: Path, tmp_path: Path) -> Path:
    """The pictures, to be written to."""
    return Path(shutil.copytree(tiny_data, tmp_path / "data"))


# ------------------------------------------------------------------------------------------------------ being stopped


@fault(
    "SIGTERM, a batch system's warning",
    "the step that is being taken is ended and saved, nothing is drawn or measured any more; the same command goes on",
    code=130,
)
def test_sigterm_saves_after_the_step_that_is_being_taken(
    of: plan.Plan, through: Path, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted) as stopped:
        carry_out(of, tmp_path, at(2, partial(signal.raise_signal, signal.SIGTERM)))

    assert stopped.value.exit_code == 130
    assert "stopped after step 3 of 6; everything is in" in str(stopped.value)
    assert checkpoint.whole(tmp_path / "tiny" / "checkpoints")[-1].name == "step-000003"
    assert carry_out(of, tmp_path).read_bytes() == through.read_bytes()


@fault(
    "SIGKILL inside a save",
    "what was half written is swept away; the run goes on from the checkpoint before, to the same bytes",
    code=None,
)
def test_sigkill_inside_a_save_loses_no_whole_checkpoint(
    planned: Path, through: Path, lives: Lives, tmp_path: Path
) -> None:
    # The 40th operation in the folder of checkpoints is in the second save: the first one has some thirty.
    killed = lives.live(planned, tmp_path / "run", operation=40)
    folder = tmp_path / "run" / "out"
    assert killed.code == -signal.SIGKILL
    assert list((folder / "checkpoints").glob(".step-*.partial"))
    before = checkpoint.whole(folder / "checkpoints")[-1].name

    again = lives.live(planned, tmp_path / "run")

    said = (tmp_path / "run" / SAID).read_text()
    assert again.code == 0, said
    assert f"Resuming from {before}" in said
    assert (folder / "tiny.safetensors").read_bytes() == through.read_bytes()
    assert not list((folder / "checkpoints").glob(".*"))


# ----------------------------------------------------------------------------------------------------------- the disk


def mount(folder: str, options: str, flags: int = 0) -> None:
    """Put a small file system of its own over a folder, for this process alone. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", folder.encode(), b"tmpfs", flags, options.encode()) != 0:
        raise OSError(ctypes.get_errno(), "mount")


def apart() -> None:
    """Have mounts be seen by this process alone (user and mount namespaces, as `unshare -rm`)."""
    user, group = os.getuid(), os.getgid()
    new_user_and_mount = 0x10000000 | 0x00020000
    if ctypes.CDLL(None, use_errno=True).unshare(new_user_and_mount) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")


def on_growing_disks(planned: str, first: int, growth: int) -> None:
    """In a life: carry the plan out on a disk that is too small, then on one that is a little larger, to its end."""
    from runtime.__main__ import main

    apart()
    Path("disk").mkdir()
    mount("disk", f"size={first}k")
    ends = []
    for size in range(first, 100 * growth, growth):
        mount("disk", f"size={size}k", flags=0x20)  # MS_REMOUNT
        ends.append(main([planned, "--output", "disk/out", "--log", "disk/logs"]))
        if ends[-1] == 0:
            break
    Path("ends.json").write_text(json.dumps(ends))
    shutil.copy("disk/out/tiny.safetensors", "made.safetensors")
    os._exit(0)


def on_a_read_only_disk() -> None:
    """In a life: the place of the output and the logs takes no files."""
    apart()
    Path("out").mkdir()
    mount("out", "size=64k", flags=0x1)  # MS_RDONLY


def with_full_logs() -> None:
    """In a life: the place of the metrics has room for one page of memory."""
    apart()
    Path("logs").mkdir()
    mount("logs", "size=4k")


@pytest.fixture(scope="module")
def can_mount() -> None:
    """A full or read-only disk is a real one here, a tmpfs in a namespace of the test's own. Some containers and
    kernels forbid such a namespace; a stand-in for the disk would try nothing, so the test says that it did not run."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine does not let a test mount a small disk")


@fault(
    "the disk is full, at every write in turn: a real file system that is too small, and grows a little each time",
    "it is said how much was needed and is free, what was there is intact; once there is room, the same command goes"
    " on to the same bytes",
    code=5,
)
def test_a_full_disk_at_every_write_is_told_and_gone_on_from(
    planned: Path, through: Path, lives: Lives, tmp_path: Path, can_mount: None
) -> None:
    folder = tmp_path / "run"
    ended = lives.live(planned, folder, prepare=partial(on_growing_disks, str(planned), 32, 96))

    said = (folder / SAID).read_text()
    assert ended.code == 0, said
    *full, done = json.loads((folder / "ends.json").read_text())
    assert len(full) >= 5 and set(full) == {5} and done == 0, said
    assert said.count("the disk is full") == len(full)
    assert "Traceback" not in said
    assert (folder / "made.safetensors").read_bytes() == through.read_bytes()


@fault("an output folder that is read-only", "it is named before the base is loaded", code=5)
def test_a_read_only_output_folder_is_named(
    planned: Path, lives: Lives, tmp_path: Path, can_mount: None
) -> None:
    ended = lives.live(planned, tmp_path / "run", prepare=on_a_read_only_disk)

    said = (tmp_path / "run" / SAID).read_text()
    assert ended.code == 5, said
    assert "cannot be written: the file system is read-only" in said
    assert "Loaded base model" not in said


@fault("the disk of the metrics is full", "it is named; the checkpoints are elsewhere and whole", code=5)
def test_a_full_disk_of_metrics_is_named(
    planned: Path, lives: Lives, tmp_path: Path, can_mount: None
) -> None:
    ended = lives.live(planned, tmp_path / "run", prepare=with_full_logs)

    said = (tmp_path / "run" / SAID).read_text()
    assert ended.code == 5, said
    assert "error: logs: metrics cannot be written: no space left on device" in said


# -------------------------------------------------------------------------------------------------------- the inputs


@pytest.mark.parametrize(
    "harm",
    [Path.unlink, lambda file: os.truncate(file, 100), lambda file: Image.new("RGB", (64, 64)).save(file)],
    ids=["deleted", "truncated", "changed"],
)
@fault(
    "a data file is deleted, truncated or changed during a run",
    "the run goes on with what it has read, to the same bytes; the next start names the file",
    code=4,
)
def test_data_harmed_during_a_run_is_no_matter_until_the_next_start(
    tiny_base: Path, data: Path, through: Path, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    of = tiny_plan(tiny_base, data)

    made = carry_out(of, tmp_path, at(2, partial(harm, data / "3.png")))

    assert made.read_bytes() == through.read_bytes()
    with pytest.raises(PlanError, match=r"3\.png: (changed|is gone) since planning"):
        carry_out(of, tmp_path)


@fault("the base is replaced by another of the same name", "it is named before anything is loaded", code=4)
def test_a_base_replaced_by_another_of_the_same_name_is_refused(
    tiny_base: Path, tiny_data: Path, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    of = tiny_plan(base, tiny_data)
    (weights,) = (base / "unet").glob("*.safetensors")
    other = bytearray(weights.read_bytes())
    other[-1] ^= 1
    weights.write_bytes(other)

    with pytest.raises(PlanError) as refused:
        carry_out(of, tmp_path)

    assert refused.value.lines()[0] == f"error: {base}: the base changed since planning"


@fault(
    "a package has another version than the plan's",
    "both versions are named; `--accept-versions` runs all the same",
    code=5,
)
def test_another_version_of_a_package_is_refused_unless_it_is_accepted(of: plan.Plan, tmp_path: Path) -> None:
    versions = {**of.program.versions, "torch": "0.0.1"}
    other = plan.make(attrs.evolve(of.program, versions=versions), of.outputs, of.estimate)
    places = where(other, tmp_path)

    with pytest.raises(MachineError) as refused:
        preflight.check(other, places)
    preflight.check(other, places, accept_versions=True)

    here = of.program.versions["torch"]
    assert refused.value.lines() == [
        f"error: torch: version {here} is installed, the plan was made with 0.0.1",
        "hint: install the plan's versions, plan again, or give --accept-versions",
    ]


# ---------------------------------------------------------------------------------------------- the clock and workers


@fault("the clock jumps, a day back at every look", "nothing: the same bytes", code=0)
def test_a_clock_that_jumps_changes_no_byte(
    of: plan.Plan, through: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: 2e9 - 86_400 * next(looks))

    assert carry_out(of, tmp_path).read_bytes() == through.read_bytes()
    assert next(looks) > 0


@fault("a worker process dies", "it cannot: a run has no process but its own", code=0)
def test_a_run_has_no_worker_that_could_die(of: plan.Plan, tmp_path: Path) -> None:
    before = set(psutil.Process().children(recursive=True))
    seen: list[set[psutil.Process]] = []

    carry_out(of, tmp_path, lambda step: seen.append(set(psutil.Process().children(recursive=True)) - before))

    assert seen == [set()] * 6
