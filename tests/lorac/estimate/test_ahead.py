"""What a copy of the process makes ahead: it is there afterwards, and a copy that fails, hangs or is not wanted is no
more than none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

COPYING = """
import os, sys, time
from pathlib import Path
from lorac.estimate import ahead

ahead._copies = lambda: True  # on one core, too
ahead.PATIENCE = float(sys.argv[1])
file, process = Path(sys.argv[2]), os.getpid()

def gone():
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return True
    return False

"""


def copying(body: str, folder: Path, patience: float = 60.0) -> str:
    """What a process of its own says, which alone may be copied (this one may have threads)."""
    command = [sys.executable, "-c", COPYING + body, str(patience), str(folder / "made")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, env=environment)
    assert done.stderr == ""
    return done.stdout


def test_it_is_made_by_a_copy_beside_the_body(tmp_path: Path) -> None:
    body = """
with ahead.made_ahead(lambda: file.write_text(str(os.getpid()))):
    assert os.getpid() == process
assert int(file.read_text()) != process
print(gone())
"""
    assert copying(body, tmp_path) == "True\n"


@pytest.mark.parametrize(
    ("made", "patience"), [("1 / 0", 60.0), ("print('a word')", 60.0), ("time.sleep(600)", 0.0)]
)
def test_a_copy_that_fails_talks_or_hangs_is_neither_heard_nor_left(
    made: str, patience: float, tmp_path: Path
) -> None:
    body = f"""
with ahead.made_ahead(lambda: {made}):
    pass
print(gone())
"""
    assert copying(body, tmp_path, patience) == "True\n"


def test_a_body_that_raises_ends_the_copy(tmp_path: Path) -> None:
    body = """
try:
    with ahead.made_ahead(lambda: time.sleep(600)):
        raise KeyboardInterrupt
except KeyboardInterrupt:
    print(gone())
"""
    assert copying(body, tmp_path) == "True\n"


def test_beside_other_threads_there_is_no_copy(tmp_path: Path) -> None:
    body = """
import importlib, threading
importlib.reload(ahead)
wait = threading.Event()
threading.Thread(target=wait.wait).start()
with ahead.made_ahead(lambda: file.write_text("made")):
    pass
wait.set()
print(file.exists())
"""
    assert copying(body, tmp_path) == "False\n"
