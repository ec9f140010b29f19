"""The tables of families and of methods: `python -m tests.tables families` (or `methods`) runs the tests that decide
their cells, and writes down what came of them in docs/families.md or docs/methods.md, and as data beside it.

`@pytest.mark.family("resume")` over a test says which column it decides; the row is its parameter, or the mark's `row`.
A cell is ✓ where all of its tests passed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from lorac.generate import PLAN
from lorac.load import load
from runtime import plan
from runtime.families import FAMILIES
from runtime.human import size
from tests.test_generated import commands, parameters

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PACKAGES = ("torch", "diffusers", "transformers", "peft")

PASSED, FAILED, NONE = "✓", "**fails**", "-"


@attrs.frozen
class Cell:
    """What is said of a row in a column, and why where that is nothing."""

    says: str
    why: str = ""
    tests: tuple[str, ...] = ()


Cells = dict[tuple[str, str], Cell]
"""(row, column) -> cell."""

# ------------------------------------------------------------------------------------------------------ running tests


class Outcomes:
    """A plugin of pytest that keeps which cells a mark's tests decide, and what came of each test."""

    def __init__(self, mark: str) -> None:
        self.mark = mark
        self.tests: dict[tuple[str, str], list[str]] = {}
        self.came: dict[str, tuple[str, str]] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            for mark in item.iter_markers(self.mark):
                row = mark.kwargs.get("row") or item.callspec.id  # type: ignore[attr-defined]
                for column in mark.args:
                    self.tests.setdefault((row, column), []).append(item.nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.came[report.nodeid] = (FAILED, "")
        elif report.skipped and isinstance(report.longrepr, tuple):
            self.came[report.nodeid] = (NONE, report.longrepr[2].removeprefix("Skipped: "))
        elif report.when == "call":
            self.came.setdefault(report.nodeid, (PASSED, ""))

    def cells(self) -> Cells:
        return {place: cell([self.came.get(test, (NONE, "was not run")) for test in tests], tests)
                for place, tests in self.tests.items()}  # fmt: skip


def cell(came: Sequence[tuple[str, str]], tests: Iterable[str]) -> Cell:
    """A cell by what came of its tests: the worst of it."""
    says, why = min(came, key=lambda one: (FAILED, NONE, PASSED).index(one[0]))
    return Cell(says, why, tuple(sorted(tests)))


def ran(mark: str, paths: Iterable[str]) -> Cells:
    """The cells that the marked tests in these files decide, after running them."""
    outcomes = Outcomes(mark)
    pytest.main(["-m", mark, "-p", "no:cacheprovider", *paths], plugins=[outcomes])
    return outcomes.cells()


# ----------------------------------------------------------------------------------------------------------- families

COLUMNS = (
    "detect",
    "load folder",
    "load single file",
    "cache",
    "train 3 steps",
    "resume",
    "sample",
    "export",
    "re-load, equal output",
    "plan 12 GB",
    "plan 24 GB",
)
FAMILY_TESTS = (
    "tests/runtime/families/test_pictures.py",
    "tests/runtime/families/test_causal_lm.py",
    "tests/runtime/families/test_gguf.py",
    "tests/runtime/test_text_run.py",
    "tests/test_generated.py",
)
NO_FAMILY_TEST = {("causal_lm", "cache"): "tokens are learnt as they are: there is nothing to encode"}
ADDED = ("686b09f", "046cf40", "b238dd4", "89d6717")
"""The commits that added Z-Image and Qwen-Image: the families, tests of both against diffusers, specs and verdicts."""


def families() -> Cells:
    """What the tests of families say."""
    found = ran("family", FAMILY_TESTS)
    cells = {place: one for place, one in found.items() if place[1] != "plan"}
    return cells | planned(found) | {place: Cell(NONE, why) for place, why in NO_FAMILY_TEST.items()}


def families_page(cells: Cells) -> str:
    """docs/families.md."""
    return FAMILIES_PAGE.format(
        versions=versions(),
        table=table("family", tuple(FAMILIES), COLUMNS, cells),
        tests=which(COLUMNS, cells),
        diffs="\n".join(map(diff_of, ADDED)),
    )


def planned(found: Cells) -> Cells:
    """What the golden plans' tests say, by their families: `found` has them by the commands that made the plans."""
    cells: Cells = {}
    for command in commands():
        asked = parameters(command)
        if asked["card"] == "cpu":  # the demos: no column of the table
            continue
        for one in load(ROOT / asked["spec"]):
            golden = plan.read(ROOT / asked["out"] / one.experiment.name / PLAN)
            place = (golden.program.base.family, f"plan {asked['card'].replace('GB', ' GB')}")
            came = found.get((command, "plan"), Cell(NONE, "was not run"))
            room = f"{size(golden.estimate.peak_bytes)} of {size(golden.estimate.usable_bytes)}"
            if came.says == PASSED:
                came = attrs.evolve(came, says=f"{one.experiment.name}: {room}")
            before = cells.get(place)
            if before is not None:
                says = f"{before.says}; {came.says}"
                came = Cell(says, before.why or came.why, (*before.tests, *came.tests))
            cells[place] = came
    return cells


def diff_of(commit: str) -> str:
    """The files and lines of a commit, as git shows it."""
    command = ["git", "show", "--numstat", "--format=%s", commit]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    title, *files = filter(None, told.split("\n"))
    rows = "\n".join("| `{2}` | {0} | {1} |".format(*file.split("\t")) for file in files)
    return f"`{commit}` {title}\n\n| file | lines added | taken out |\n| --- | ---: | ---: |\n{rows}\n"


FAMILIES_PAGE = """\
# What each family does

Written by `just families` from the tests that it ran, with {versions}.
Each family is tried on a small random model of its own architecture: the same loaders, step, sampler and exporters. A ✓
is a test that passed; where there is none, a number says why. The last columns are the golden plans at full size, by
their specs' names: the peak of what is usable on the card.

{table}

## Which tests these are

{tests}

Re-loading compares the loss that the run's own modules give with that of the published pipeline after it loaded the
exported file; where a pipeline has no loader of LoRAs (Stable Video Diffusion), and for language models, PEFT loads it.
Of the golden plans of large models the tests compare all but what the search decides;
`just validate-generated` compiles each one whole.

## What one more family takes

The commits that added Z-Image and Qwen-Image: a family is its file and its line of the registry (`qwen.py` and
`patches.py` are what the two share with each other and with others), and the tests run over the registry. What its
commit does not have came after it: tests of what it has of its own, a spec, and who is said to load its LoRAs.

{diffs}"""

# ------------------------------------------------------------------------------------------------------------ methods

WHERE = ("A1111, ComfyUI", "peft")
METHOD_TESTS = ("tests/runtime/test_every_method.py", "tests/runtime/test_methods.py")
UNREAD = "no program reads one of pictures: refused when it is planned"
NO_METHOD_TEST = {
    ("VeRA", WHERE[0]): UNREAD,
    ("IA3", WHERE[0]): UNREAD,
    ("LoRA on convolutions", WHERE[1]): "a language model has none",
    ("LoRA, the text encoder too", WHERE[1]): "a language model has none",
    ("DoRA, the text encoder too", WHERE[1]): "a language model has none",
    ("LoKr, second factor whole", WHERE[1]): "not tried there",
}


def methods() -> Cells:
    """What the tests of methods say."""
    return ran("method", METHOD_TESTS) | {place: Cell(NONE, why) for place, why in NO_METHOD_TEST.items()}


def methods_page(cells: Cells) -> str:
    """docs/methods.md."""
    rows = sorted({row for row, _ in cells}, key=str.lower)
    return METHODS_PAGE.format(
        versions=versions(), table=table("method", rows, WHERE, cells), tests=which(WHERE, cells)
    )


METHODS_PAGE = """\
# What each method does

Written by `just methods` from the tests that it ran, with {versions}.
A ✓ is a test that passed: the method was planned, trained for real, stopped and resumed to the same bytes, exported,
and loaded again by the consumer's own rules, with the output that the run's own modules give. (Of rsLoRA in peft, four
steps without a stop, and the weights' change.)

- A1111, ComfyUI: Stable Diffusion 1.x, linear layers and convolutions; both programs' rules as `tests/consumers` has
  them, no key left over, and the UNet's answer compared.
- peft: a language model; `PeftModel.from_pretrained` on the run's folder, and the logits compared.

{table}

## Which tests these are

{tests}
"""

# ------------------------------------------------------------------------------------------------------------- tables


def table(head: str, rows: Sequence[str], columns: Sequence[str], cells: Cells) -> str:
    """A table in Markdown; why a cell is empty stands below it, by number."""
    reasons: dict[str, int] = {}
    lines = [f"| {head} | {' | '.join(columns)} |", f"| --- |{' --- |' * len(columns)}"]
    for row in rows:
        said = []
        for column in columns:
            one = cells.get((row, column), Cell(NONE, "no test"))
            mark = f" ({reasons.setdefault(one.why, len(reasons) + 1)})" if one.why else ""
            said.append(one.says + mark)
        lines.append(f"| {row} | {' | '.join(said)} |")
    return "\n".join([*lines, "", *(f"({number}) {why}.  " for why, number in reasons.items())])


def which(columns: Sequence[str], cells: Cells) -> str:
    """The tests of each column, without their parameters."""
    lines = []
    for column in columns:
        tests = {
            test.partition("[")[0] for place, one in cells.items() if place[1] == column for test in one.tests
        }
        lines.append(f"- {column}: {', '.join(f'`{test}`' for test in sorted(tests))}")
    return "\n".join(lines)


def data(cells: Cells) -> list[dict[str, Any]]:
    return [
        {"row": row, "column": column, **attrs.asdict(one)} for (row, column), one in sorted(cells.items())
    ]


def versions() -> str:
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)


TABLES: dict[str, tuple[Callable[[], Cells], Callable[[Cells], str]]] = {
    "families": (families, families_page),
    "methods": (methods, methods_page),
}
"""What is run for a table, and how its page is written."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.tables", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("table", choices=TABLES)
    name = parser.parse_args().table
    run, page = TABLES[name]
    cells = run()
    (DOCS / f"{name}.md").write_text(page(cells), encoding="utf-8")
    text = json.dumps({"cells": data(cells)}, indent=1, ensure_ascii=False)
    (DOCS / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")
    return 1 if any(FAILED in one.says for one in cells.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
