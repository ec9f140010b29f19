"""The golden plans: what `just generate` made of the specs is what lorac makes of them now."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import attrs
import pytest

from lorac.cli import cli
from lorac.generate import PLAN, SCRIPT, compiled, launch_script
from lorac.load import load
from runtime import plan

ROOT = Path(__file__).parents[1]
GENERATED = ROOT / "generated"


def commands() -> list[str]:
    """The `lorac plan …` lines of the recipe that makes the golden plans."""
    recipe = re.search(r"^generate:.*\n((?: +.*\n)+)", (ROOT / "justfile").read_text(encoding="utf-8"), re.M)
    assert recipe
    return [line for line in map(str.strip, recipe[1].splitlines()) if line.startswith("lorac plan ")]


def parameters(command: str) -> dict[str, Any]:
    """What the command line makes of such a line."""
    return cli.commands["plan"].make_context("plan", shlex.split(command)[2:]).params


@pytest.mark.parametrize("command", commands())
def test_a_golden_plan_is_what_its_spec_compiles_to(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    asked = parameters(command)
    for made in compiled(load(asked["spec"]), ROOT, asked["card"], asked["unlocked"]):
        folder = ROOT / asked["out"] / made.outputs.name
        golden = plan.read(folder / PLAN)
        if asked["card"] == "cpu":  # the estimate is of the machine that made it: its memory, its speed
            made = attrs.evolve(made, estimate=golden.estimate)
        assert plan.unstructure(made) == plan.unstructure(golden), (
            "run `just generate` and look at the change"
        )
        assert (folder / PLAN).read_text(encoding="utf-8") == plan.dumps(made)
        assert (folder / SCRIPT).read_text(encoding="utf-8") == launch_script(made, folder, ROOT)


def test_every_spec_has_a_golden_plan_and_every_golden_plan_a_spec() -> None:
    made = {
        parameters(command)["out"] / one.experiment.name
        for command in commands()
        for one in load(ROOT / parameters(command)["spec"])
    }
    assert {path.parent.relative_to(ROOT) for path in GENERATED.glob(f"*/*/{PLAN}")} == made
    planned = {parameters(command)["spec"].name for command in commands()}
    assert planned == {path.name for path in (ROOT / "specs").glob("*.py")}
