"""`lorac chat` starts the runtime's chat with what it was given, and does nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lorac import launch
from tests.lorac.calling import Called, call


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """Nothing is started; with which arguments it would have been is kept. In an empty folder."""
    monkeypatch.chdir(tmp_path)
    found: list[list[str]] = []

    def instead(arguments: list[str]) -> int:
        found.append(arguments)
        return 4

    monkeypatch.setattr(launch, "_become", instead)
    return found


def test_a_name_is_a_run_in_output_and_the_exit_code_is_the_chats(
    started: list[list[str]], tmp_path: Path
) -> None:
    (tmp_path / "output" / "jargon").mkdir(parents=True)
    assert call("chat", "jargon") == Called(4, "", "")
    assert started == [[sys.executable, "-P", "-m", "runtime.chat", "output/jargon"]]


def test_options_are_handed_on_and_a_folder_is_itself(started: list[list[str]], tmp_path: Path) -> None:
    (tmp_path / "runs" / "jargon").mkdir(parents=True)
    options = [
        "--system=Be brief.",
        "--max-tokens=8",
        "--temperature=0.5",
        "--seed=0",
        "--base=models/a.gguf",
    ]
    prompts = ["--prompt=--what?", "--prompt=And\nthen?"]
    call("chat", "runs/jargon", *prompts, "--json", *options, "--debug")
    assert started[0][4:] == ["runs/jargon", *options, *prompts, "--json", "--debug"]


def test_a_wrong_option_starts_nothing(started: list[list[str]]) -> None:
    called = call("chat", "jargon", "--seed=x")
    assert (called.code, called.out, started) == (2, "", [])
    assert called.err.endswith("hint: lorac chat --help shows the usage\n")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nsys.argv = ['lorac', 'chat', '--help']\nfrom lorac.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('heavy:', sorted({'torch', 'transformers', 'peft', 'rich', 'runtime.chat'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "RUN" in done.stdout
    assert done.stdout.endswith("heavy: []\n")
