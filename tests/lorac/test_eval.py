"""`lorac eval` starts the runtime's evaluation with what it was given, and does nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lorac import launch
from tests.lorac.calling import call


def test_options_are_handed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "output" / "emoji").mkdir(parents=True)
    started: list[list[str]] = []

    def instead(arguments: list[str]) -> int:
        started.append(arguments)
        return 3

    monkeypatch.setattr(launch, "_become", instead)
    options = ["--weights=0.6,1", "--checkpoints=last", "--seeds=3", "--judge=clip", "--base=b", "--data=d"]

    assert call("eval", "emoji", *options, "--apply", "--json", "--debug").code == 3
    assert call("eval", "emoji").code == 3
    assert started[0][2:] == [
        "-m",
        "runtime.evaluation",
        "output/emoji",
        *options,
        "--apply",
        "--json",
        "--debug",
    ]
    assert started[1] == [sys.executable, "-P", "-m", "runtime.evaluation", "output/emoji"]
