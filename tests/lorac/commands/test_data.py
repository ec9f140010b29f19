"""`lorac label` starts the runtime's labeller with what it was given; help of both commands is light."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lorac import launch
from tests.lorac.calling import Called, call

ROOT = Path(__file__).parents[3]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Nothing is started; with which arguments it would have been is kept."""
    found: list[list[str]] = []

    def instead(arguments: list[str]) -> int:
        found.append(arguments)
        return 5

    monkeypatch.setattr(launch, "_become", instead)
    return found


def test_options_are_handed_on_and_the_exit_code_is_the_labellers(started: list[list[str]]) -> None:
    options = ["--model=a/b", "--trigger=my style", "--prefix=-a", "--max-tags=3"]
    more = ["--words=x", "--words=y.txt", "--again", "--json", "--debug"]

    assert call("label", "pictures", *options, *more) == Called(5, "", "")
    assert started == [[sys.executable, "-P", "-m", "runtime.label", "pictures", *options, *more]]
    call("label", "pictures")
    assert started[1][3:] == ["runtime.label", "pictures"]


@pytest.mark.parametrize("command", ["label", "check"])
def test_help_imports_nothing_heavy(command: str) -> None:
    code = (
        f"import sys\nsys.argv = ['lorac', '{command}', '--help']\nfrom lorac.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'numpy', 'PIL', 'imagehash', 'rich', 'runtime.label'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)

    assert "DIR" in done.stdout and done.stdout.endswith("heavy: []\n")


def test_checking_pictures_needs_no_torch() -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom lorac.check import FAULTS, check\n"
        "from lorac.check.scan import scan\n"
        "check(FAULTS, scan(Path('specs/emoji/noto/heldout'), 64, ''))\nprint('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)

    assert done.stdout == "False\n"


def test_fix_is_for_pictures_alone(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "words"}\n')

    called = call("check", str(tmp_path), "--fix", str(tmp_path / "out"))
    assert (called.code, called.out) == (2, "")
    assert called.err.startswith("error: --fix is for a folder of pictures")
