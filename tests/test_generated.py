"""The golden plans: what `just generate` made of the specs is what lorac makes of them now.

Of the large models the search alone takes minutes: here all but what it decides is compared, and
`just validate-generated` compiles every one of them whole.
"""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Any

import attrs
import pytest

from lorac.commands import find
from lorac.estimate import cards
from lorac.generate import PLAN, SCRIPT, compiled, launch_script
from lorac.load import load
from lorac.resolve import resolve
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
    asked = find("plan")
    assert asked is not None
    return asked.make_context("plan", shlex.split(command)[2:]).params


QUICK = ("specs/quickstart.py", "specs/chat_quickstart.py", "specs/cyberpunk.py", "specs/sd2.py")
ALL = bool(os.environ.get("LORAC_ALL_PLANS"))


@pytest.mark.family("plan")
@pytest.mark.parametrize("command", [line for line in commands() if ALL or line.split()[2] in QUICK])
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


@pytest.mark.family("plan")
@pytest.mark.parametrize("command", [line for line in commands() if line.split()[2] not in QUICK])
def test_a_large_golden_plan_is_its_spec_s_but_for_what_the_search_decides(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    asked = parameters(command)
    for one in load(asked["spec"]):
        golden = plan.read(ROOT / asked["out"] / one.experiment.name / PLAN)
        folder = (ROOT / asked["spec"]).parent
        found = resolve(one.experiment, ROOT, folder, cards.find(asked["card"]), asked["unlocked"])

        assert as_decided(found.program, golden.program) == golden.program, (
            "run `just generate` and look at it"
        )
        assert drawn_as_decided(found.outputs, golden.outputs) == golden.outputs
        assert golden.estimate.peak_bytes <= golden.estimate.usable_bytes


def as_decided(program: plan.Program, golden: plan.Program) -> plan.Program:
    """The program with what the search decides as the golden plan has it."""
    train = attrs.evolve(
        program.train,
        micro_batch=golden.train.micro_batch,
        accumulation=golden.train.accumulation,
        fallbacks=golden.train.fallbacks,
        optimizer=golden.train.optimizer,
    )
    decided = ("checkpointed", "quantization", "offloaded", "attention_chunks")
    compute = attrs.evolve(program.compute, **{name: getattr(golden.compute, name) for name in decided})
    return attrs.evolve(program, train=train, compute=compute)


def drawn_as_decided(outputs: plan.Outputs, golden: plan.Outputs) -> plan.Outputs:
    """The outputs, their pictures in tiles or not as the golden plan's."""
    if not isinstance(outputs.samples, plan.Samples) or not isinstance(golden.samples, plan.Samples):
        return outputs
    return attrs.evolve(outputs, samples=attrs.evolve(outputs.samples, tiled=golden.samples.tiled))


def test_every_spec_has_a_golden_plan_and_every_golden_plan_a_spec() -> None:
    made = {
        parameters(command)["out"] / one.experiment.name
        for command in commands()
        for one in load(ROOT / parameters(command)["spec"])
    }
    assert {path.parent.relative_to(ROOT) for path in GENERATED.glob(f"*/*/{PLAN}")} == made
    planned = {parameters(command)["spec"].name for command in commands()}
    assert planned == {path.name for path in (ROOT / "specs").glob("*.py")}
