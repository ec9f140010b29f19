"""`lorac verify` finds any byte that changed; `lorac reproduce` makes the same bytes again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from runtime import __main__ as carrying
from runtime import plan, reproduce, verify
from tests.faults import fault
from tests.runtime.plans import tiny_plan
from tests.runtime.test_run import carry_out


@pytest.fixture(scope="module")
def finished(tiny_base: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run's folder. Not to be written to."""
    of = tiny_plan(tiny_base, tiny_data, steps=2)
    return carry_out(of, tmp_path_factory.mktemp("verified")).parent


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "tiny"))


def test_a_whole_run_is_as_it_was_written(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify.main([str(finished), "--json"]) == 0
    found = {one["what"]: one["wrong"] for one in json.loads(capsys.readouterr().out)}
    assert not any(found.values())
    assert {"plan.json", "tiny/tiny.safetensors", "the base", "the data"} <= found.keys()
    assert any(name.startswith("step-000002/") for name in found)


@pytest.mark.parametrize(
    "name", ["tiny.safetensors", "tiny.json", "checkpoints/step-000002/optimizer.safetensors"]
)
@fault(
    "one flipped bit in a finished run",
    "`lorac verify` names the file",
    code=3,
)
def test_one_flipped_bit_is_named(copy: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)

    assert verify.main([str(copy)]) == 3
    said = capsys.readouterr()
    wrong = [line for line in said.out.splitlines() if line.startswith("WRONG")]
    assert len(wrong) == 1 and wrong[0].endswith(
        f"/{Path(name).name}: is not what was written: its sha256 differs"
    )
    assert "lorac reproduce RUN" in said.err


def test_an_edited_plan_and_a_missing_file_are_named_at_once(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (copy / "plan.json").read_text()
    (copy / "plan.json").write_text(text.replace('"seed": 1', '"seed": 2'))
    (copy / "pytorch_lora_weights.safetensors").unlink()

    assert verify.main([str(copy)]) == 3
    said = capsys.readouterr().out
    assert "WRONG plan.json: " in said and "the plan was edited or damaged" in said
    assert "WRONG tiny/pytorch_lora_weights.safetensors: is gone" in said


def test_an_older_lorac_s_run_is_checked_by_its_files_and_its_plan_is_to_be_compiled_anew(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of_format(copy / "plan.json", 3)

    assert verify.main([str(copy)]) == 4
    said = capsys.readouterr()
    assert f"WRONG plan.json: is a plan of format 3, and this lorac reads format {plan.FORMAT}" in said.out
    assert "ok    tiny/tiny.safetensors" in said.out
    assert "ok    the base and the data: not checked" in said.out
    assert said.err.splitlines()[1:] == ["hint: compile it anew from its spec: lorac plan SPEC"]


@pytest.mark.parametrize("command", [carrying, reproduce])
def test_a_plan_of_an_older_lorac_is_run_by_compiling_its_spec_anew(
    copy: Path, command: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    of_format(copy / "plan.json", 3)

    assert command.main([str(copy / "plan.json" if command is carrying else copy)]) == 4
    assert capsys.readouterr().err.splitlines() == [
        f"error: {copy / 'plan.json'}: is a plan of format 3, and this lorac reads format {plan.FORMAT}",
        "hint: compile it anew from its spec: lorac plan SPEC",
    ]


def of_format(path: Path, number: int) -> None:
    """Make a plan say that it is of that format."""
    text = path.read_text()
    own = f'"format": {plan.FORMAT},'
    assert own in text
    path.write_text(text.replace(own, f'"format": {number},'))


def test_a_folder_without_a_manifest_is_no_finished_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify.main([str(tmp_path)]) == 3
    assert "holds no manifest: the run did not end" in capsys.readouterr().err


def test_a_run_is_reproduced_byte_for_byte(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduce.main([str(finished), f"--output={tmp_path / 'again'}"]) == 0
    assert "came out again byte for byte" in capsys.readouterr().out


def test_other_bytes_are_told_by_file(copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = copy / "tiny.lorac.json"
    data = json.loads(manifest.read_text())
    of = next(one for one in data["files"] if one["name"] == "tiny.safetensors")
    of["sha256"] = "0" * 64
    manifest.write_text(json.dumps(data))

    assert reproduce.main([str(copy), f"--output={tmp_path / 'again'}"]) == 3
    assert "tiny.safetensors: came out with other bytes" in capsys.readouterr().err
