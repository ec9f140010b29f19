"""What README.md says is so: its tree, its spec, its commands."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
from pathlib import Path

import click
import pytest

from lorac.cli import cli
from lorac.load import load

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(before: str, language: str) -> str:
    """The first code block of that language after some text."""
    _, _, rest = README.partition(before)
    found = re.search(rf"^```{language}\n(.*?)^```", rest, re.DOTALL | re.MULTILINE)
    assert found, f"README.md has no {language} block after {before!r}"
    return found[1]


def test_the_tree_names_every_room_with_its_own_words() -> None:
    tree = runpy.run_path(str(ROOT / "docs" / "tree.py"))
    assert tree["with_tree"](README) == README, "run `just generate`"
    assert tree["tree"]() in README


def test_every_folder_of_the_repository_is_in_the_tree() -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    folders = {name.split("/")[0] for name in tracked if "/" in name and not name.startswith(".")}
    tree = runpy.run_path(str(ROOT / "docs" / "tree.py"))
    assert folders <= set(tree["TOP"])


def test_the_spec_in_the_readme_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "readme.py").write_text(block("## Write a spec", "python"), encoding="utf-8")
    assert [one.experiment.name for one in load(tmp_path / "readme.py")] == ["cyberpunk"]


def test_the_commands_in_the_readme_exist() -> None:
    named = set(re.findall(r"(?:^|`)lorac ([a-z]+)", README, re.MULTILINE))
    assert {"plan", "run", "spec", "diff", "install"} <= named <= set(cli.list_commands(click.Context(cli)))


@pytest.mark.parametrize("recipe", ["demo", "test"])
def test_each_fresh_command_makes_its_own_environment_and_calls_a_recipe_that_exists(recipe: str) -> None:
    lines = block(f"<!-- fresh: {recipe} -->", "sh").splitlines()
    assert lines == [
        "python3.11 -m venv .venv",
        ".venv/bin/pip install -q -c constraints.txt -e '.[dev]'",
        f".venv/bin/just {recipe}",
    ]
    assert re.search(rf"^{recipe}( \*ARGS)?:", (ROOT / "justfile").read_text(encoding="utf-8"), re.MULTILINE)


def test_what_ci_runs_is_the_test_command() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    awk = re.search(r"^command=\$\((awk .*)\)$", script, re.MULTILINE)
    assert awk
    done = subprocess.run(shlex.split(awk[1]), cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == block("<!-- fresh: test -->", "sh")


def test_every_direct_dependency_is_pinned() -> None:
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = {name.lower() for name in re.findall(r"^([\w.-]+)==", constraints, re.MULTILINE)}
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    wanted = {name.lower() for name in re.findall(r'"([\w.-]+)>=[\d.]+"', project)} - {"setuptools"}
    assert len(wanted) > 15
    assert wanted <= pinned
    assert "http" not in constraints
