"""Which plan is run, and how its process ends."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from lorac import launch
from runtime.errors import SpecError


def touched(path: Path, seconds: int) -> Path:
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    os.utime(path, (seconds, seconds))
    return path


def test_the_newest_plan_is_the_one_written_last_golden_plans_below_aside(tmp_path: Path) -> None:
    touched(tmp_path / "a" / "plan.json", 10)
    touched(tmp_path / "24GB" / "b" / "plan.json", 30)
    newest = touched(tmp_path / "c" / "plan.json", 20)
    assert launch.newest(tmp_path) == newest


def test_without_any_plan_the_error_says_how_to_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError) as caught:
        launch.newest(Path("generated"))
    assert caught.value.lines() == ["error: generated: holds no plan", "hint: make one: lorac plan SPEC"]


def test_an_argument_is_a_plan_by_its_suffix_or_as_a_folder(tmp_path: Path) -> None:
    assert launch.is_plan(tmp_path)
    assert launch.plan_in(tmp_path) == tmp_path / "plan.json"
    assert launch.is_plan(Path("gone.json"))
    assert launch.plan_in(Path("gone.json")) == Path("gone.json")
    assert not launch.is_plan(Path("specs/cats.py"))


def test_the_runtime_takes_this_process_place(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda program, arguments: started.append([program, *arguments]))
    monkeypatch.setattr(launch, "_waited_for", lambda arguments: 0)
    launch.run([Path("plan.json")], ["--debug"])
    assert started == [[sys.executable, sys.executable, "-P", "-m", "runtime", "plan.json", "--debug"]]


def test_of_several_plans_the_first_that_fails_ends_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[str] = []
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("the sweep had ended"))
    monkeypatch.setattr(launch, "_waited_for", lambda arguments: waited.append(arguments[4]) or 6)
    assert launch.run([Path("a.json"), Path("b.json")], []) == 6
    assert waited == ["a.json"]


def test_exit_codes_and_deadly_signals_are_passed_on() -> None:
    assert launch._waited_for([sys.executable, "-c", "raise SystemExit(5)"]) == 5
    dying = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert launch._waited_for([sys.executable, "-c", dying]) == 128 + signal.SIGKILL


def test_sigterm_is_handed_on_and_the_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    assert launch._waited_for([sys.executable, "-c", "import time; time.sleep(60)"]) == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_run_that_is_enough_gets_one_sigterm_and_ends_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready = tmp_path / "ready"
    saving = (
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(1), sys.exit(130)))\n"
        f"pathlib.Path({str(ready)!r}).touch()\n"
        "time.sleep(60)\n"
    )
    monkeypatch.setattr(launch, "command", lambda *_: [sys.executable, "-c", saving])
    assert launch.complete(Path("plan.json"), is_enough=ready.exists) == 130


def test_a_chat_takes_this_process_place_too(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda program, arguments: started.append([program, *arguments]))
    monkeypatch.setattr(launch, "_waited_for", lambda arguments: 0)
    launch.start("runtime.chat", Path("output/jargon"), ["--json"])
    expected = [sys.executable, "-P", "-m", "runtime.chat", "output/jargon", "--json"]
    assert started == [[sys.executable, *expected]]


def test_what_a_run_of_many_says_is_no_result(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    saying = [sys.executable, "-c", "print('step 1'); raise SystemExit(6)"]
    monkeypatch.setattr(launch, "command", lambda *_: saying)
    assert launch.complete(Path("plan.json")) == 6
    assert capfd.readouterr() == ("", "step 1\n")
