"""The command line as people call it: output, exit codes, and what is not imported for help."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from lorac import generate, launch
from lorac import install as installing
from runtime import plan
from runtime.errors import InputError, Problem
from tests.lorac.calling import Called, call
from tests.lorac.plans import OUTPUTS, a_plan

Cli = Callable[..., Called]

ROOT = Path(__file__).parents[2]
BAD_SPECS = Path(__file__).parent / "bad_specs"

HEAVY = {"torch", "diffusers", "transformers", "peft", "numpy", "PIL", "rich", "jinja2"}

SPEC = """\
from lorac import Experiment, Images

experiment = Experiment(name="cats", base="sd.safetensors", data=Images("pictures"))
"""
SWEEP = """\
from lorac import Experiment, Images, Train

sweep = [
    Experiment(name=f"cats-{seed}", base="sd.safetensors", data=Images("pictures"), train=Train(seed=seed))
    for seed in (1, 2)
]
"""


@pytest.fixture
def lorac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Calls the command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return call


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Each spec compiles at once, to a plan made by hand; how it was asked for is kept."""
    asked: list[tuple[Any, ...]] = []

    def compile_experiment(
        experiment: Any, root: Path, folder: Path, tell: Callable[[str], None], **options: Any
    ) -> plan.Plan:
        tell("compiling")
        asked.append((root, folder, options))
        return a_plan(outputs=attrs.evolve(OUTPUTS, name=experiment.name))

    monkeypatch.setattr(generate, "compile_experiment", compile_experiment)
    return asked


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Nothing is started; with which arguments it would have been is kept."""
    found: list[list[str]] = []

    def instead(plans: list[Path], options: list[str]) -> int:
        found.append([*(path.as_posix() for path in plans), *options])
        return 0

    monkeypatch.setattr(launch, "run", instead)
    return found


# ------------------------------------------------------------------------------------------------------ usage


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (["plan"], "error: missing argument 'SPEC'\nhint: lorac plan --help shows the usage\n"),
        (
            ["plan", "a.py", "b.py"],
            "error: got unexpected extra argument (b.py)\nhint: lorac plan --help shows the usage\n",
        ),
        (
            ["plan", "a.py", "--kard", "12GB"],
            "error: no such option '--kard'. Did you mean '--card'?\n"
            "hint: lorac plan --help shows the usage\n",
        ),
        (
            ["explian", "x"],
            "error: no such command 'explian'; did you mean `lorac explain`?\nhint: lorac --help shows the usage\n",
        ),
        (
            ["train", "x.py"],
            "error: no such command 'train'; did you mean `lorac run`?\nhint: lorac --help shows the usage\n",
        ),
        (
            ["merge", "a", "b"],
            "error: no such command 'merge'; did you mean `lorac lora merge`?\n"
            "hint: lorac --help shows the usage\n",
        ),
        (
            ["lora", "convert", "a", "b"],
            "error: missing option '--to'. Choose from: kohya, diffusers, peft\n"
            "hint: lorac lora convert --help shows the usage\n",
        ),
        (["qqq"], "error: no such command 'qqq'\nhint: lorac --help shows the usage\n"),
        (
            ["spec", "colour"],
            "error: no part or field 'colour': the parts are base, data, data.folders, data(Instructions),"
            " data(Conversations), data(Completions), data(Text), sequences, adapter, adapter.words,"
            " adapter(LoHa), adapter(LoKr), adapter(VeRA), adapter(IA3), train, train.optimizer,"
            " train.optimizer(Adafactor), train.optimizer(Lion), train.optimizer(Prodigy),"
            " train.optimizer(ScheduleFreeAdamW), fit, samples,"
            " samples(Answers), evaluation, outputs\nhint: lorac spec --help shows the usage\n",
        ),
        (
            ["run", "plan.json", "--card", "12GB"],
            "error: --card is for a spec; a plan has its card already\n"
            "hint: lorac run --help shows the usage\n",
        ),
    ],
)
def test_a_wrong_call_is_exit_code_2_with_one_line_and_a_hint(
    lorac: Cli, arguments: list[str], lines: str
) -> None:
    assert lorac(*arguments) == Called(2, "", lines)


def test_without_a_command_the_help_is_shown(lorac: Cli) -> None:
    called = lorac()
    assert (called.code, called.err) == (0, "")
    assert called.out == lorac("--help").out
    assert called.out.startswith("Usage: lorac [OPTIONS] [COMMAND] [ARGS]...")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["plan", "--help"],
        ["run", "--help"],
        ["spec"],
        ["plan", str(BAD_SPECS / "wrong_types.py")],
    ],
    ids=["help", "plan help", "run help", "spec", "a wrong spec"],
)
def test_help_and_spec_errors_import_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import sys\n"
        f"sys.argv = ['lorac', *{arguments!r}]\n"
        "from lorac.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit:\n    pass\n"
        f"print('heavy:', sorted({HEAVY!r} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout.endswith("heavy: []\n"), done.stdout + done.stderr


# ------------------------------------------------------------------------------------------------------- plan


def test_plan_writes_the_plan_and_its_script_and_says_what_was_decided(
    lorac: Cli, compiled: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "cats.py").write_text(SPEC)
    called = lorac("plan", "specs/cats.py", "--card", "12GB", "--unlocked")
    assert (called.code, called.err) == (0, "")
    assert called.out.startswith("cats  plan ")
    assert called.out.endswith("wrote generated/cats/plan.json\nrun it: lorac run generated/cats/plan.json\n")
    assert plan.read(tmp_path / "generated/cats/plan.json").outputs.name == "cats"
    assert sorted(path.name for path in (tmp_path / "generated/cats").iterdir()) == ["plan.json", "run.sh"]
    assert compiled == [(tmp_path, Path("specs"), {"card": "12GB", "unlocked": True})]


def test_json_is_one_object_and_a_list_for_a_sweep(
    lorac: Cli, compiled: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    (tmp_path / "cats.py").write_text(SPEC)
    (tmp_path / "sweep.py").write_text(SWEEP)
    answer = json.loads(lorac("plan", "cats.py", "--json", "--out", "plans").out)
    assert sorted(answer) == ["decisions", "estimate", "path", "plan_hash"]
    assert answer["path"] == "plans/cats/plan.json"
    assert answer["plan_hash"] == plan.read(tmp_path / "plans/cats/plan.json").plan_hash
    assert answer["decisions"][1] == {"field": "rank", "value": "16", "reason": "preferred, and it fits"}
    assert answer["estimate"]["peak_bytes"] == 8 * 2**30
    sweep = json.loads(lorac("plan", "sweep.py", "--json").out)
    assert [one["path"] for one in sweep] == ["generated/cats-1/plan.json", "generated/cats-2/plan.json"]


def test_nothing_is_written_unless_every_experiment_compiles(
    lorac: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def compile_experiment(experiment: Any, *_: Any, **__: Any) -> plan.Plan:
        if experiment.name == "cats-2":
            raise InputError(Problem("pictures", "does not exist", "give the folder of pictures"))
        return a_plan()

    monkeypatch.setattr(generate, "compile_experiment", compile_experiment)
    (tmp_path / "sweep.py").write_text(SWEEP)
    assert lorac("plan", "sweep.py") == Called(
        3, "", "error: pictures: does not exist\nhint: give the folder of pictures\n"
    )
    assert not (tmp_path / "generated").exists()


def test_a_misspelt_card_is_told_at_its_line_and_from_the_call_as_card(lorac: Cli, tmp_path: Path) -> None:
    with_card = SPEC.replace("Experiment, Images", "Experiment, Fit, Images").replace(
        'Images("pictures"))', 'Images("pictures"),\n    fit=Fit(card="rtx3600"))'
    )
    (tmp_path / "cats.py").write_text(with_card)

    hint = "hint: did you mean rtx30"
    told = lorac("plan", "cats.py")
    assert told.code == 2
    assert told.err.startswith(f"error: cats.py:4: no card is called 'rtx3600'\n{hint}")
    called = lorac("plan", "cats.py", "--card", "rtx3600")
    assert called.err.startswith(f"error: card: no card is called 'rtx3600'\n{hint}")


def test_the_script_runs_the_plan_from_the_folder_it_was_planned_in(
    lorac: Cli, compiled: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    (tmp_path / "cats.py").write_text(SPEC)
    lorac("plan", "cats.py", "--out", "it's $HOME")
    (tmp_path / "fake.sh").write_text('#!/bin/sh\npwd\nfor word; do echo "$word"; done\n')
    (tmp_path / "fake.sh").chmod(0o755)
    done = subprocess.run(
        ["sh", "it's $HOME/cats/run.sh", "--debug"],
        env={**os.environ, "PYTHON": str(tmp_path / "fake.sh")},
        capture_output=True,
        text=True,
        check=True,
    )
    where = str(tmp_path.resolve())
    assert done.stdout.splitlines() == [
        where, "-P", "-m", "runtime", "it's $HOME/cats/plan.json", "--debug",
    ]  # fmt: skip


# -------------------------------------------------------------------------------------------------------- run


def test_run_without_an_argument_takes_the_newest_plan_and_names_it_first(
    lorac: Cli, started: list[list[str]], tmp_path: Path
) -> None:
    plan.write(a_plan(), tmp_path / "generated/cats/plan.json")
    called = lorac("run", "--accept-versions", "--data", "elsewhere", "--debug")
    assert called == Called(0, "Running generated/cats/plan.json, the newest plan in generated/\n", "")
    assert started == [["generated/cats/plan.json", "--data=elsewhere", "--accept-versions", "--debug"]]


def test_run_takes_a_plan_by_its_folder(lorac: Cli, started: list[list[str]], tmp_path: Path) -> None:
    (tmp_path / "generated/cats").mkdir(parents=True)
    assert lorac("run", "generated/cats") == Called(0, "", "")
    assert started == [["generated/cats/plan.json"]]


def test_run_plans_a_spec_first(
    lorac: Cli, started: list[list[str]], compiled: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    (tmp_path / "sweep.py").write_text(SWEEP)
    called = lorac("run", "sweep.py", "--card", "24GB")
    assert called.out.splitlines() == [
        f"Planned generated/cats-{seed}/plan.json: 1,200 steps, about 15m00s, 8.00 GiB of 11.00 GiB"
        for seed in (1, 2)
    ]
    assert started == [["generated/cats-1/plan.json", "generated/cats-2/plan.json"]]
    assert [options for _, _, options in compiled] == [{"card": "24GB", "unlocked": False}] * 2


def test_the_runtime_exit_code_is_the_command_s(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lorac", "run", "none.json"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 4
    assert done.stdout == ""
    assert done.stderr.startswith("error: none.json: cannot be read: ")


# ---------------------------------------------------------------------------------------------- diff and spec


def test_diff_shows_what_differs(lorac: Cli, tmp_path: Path) -> None:
    plan.write(a_plan(), tmp_path / "a" / "plan.json")
    plan.write(a_plan(outputs=attrs.evolve(OUTPUTS, author="Jane")), tmp_path / "b.json")
    assert lorac("diff", "a", "b.json") == Called(
        0, "  outputs.author: '' -> Jane\nthe same bytes are trained\n", ""
    )
    assert lorac("diff", "a", "a/plan.json").out == "the plans are the same\n"


def test_spec_prints_one_part_or_all_and_the_same_as_json(lorac: Cli) -> None:
    assert lorac("spec", "adapter").out.startswith(
        "adapter = LoRA(…)\n  rank: a whole number between 1 and 1024 or Auto(low, high);"
        " default Auto(4, 32, prefer=16)\n"
    )
    rows = json.loads(lorac("spec", "--json").out)
    assert {row["field"] for row in rows} > {"name", "base", "adapter.rank", "train.optimizer.eps"}


# ---------------------------------------------------------------------------------------------------- install


@pytest.mark.parametrize(
    ("asked", "fields"),
    [
        ("train.learning_rate", ["train.learning_rate"]),
        ("learning_rate", ["adapter.words.learning_rate", "train.learning_rate"]),
        ("lr", ["train.learning_rate"]),
        ("Prodigy", None),
    ],
)
def test_spec_finds_a_field_by_its_name_or_by_another_trainers(
    lorac: Cli, asked: str, fields: list[str] | None
) -> None:
    rows = json.loads(lorac("spec", asked, "--json").out)
    found = [row["field"] for row in rows]
    assert found == fields if fields else {row["part"] for row in rows} == {asked}


def test_install_takes_a_name_or_a_folder_and_says_how_to_call_it(
    lorac: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[tuple[Any, ...]] = []

    def instead(folder: Path, **options: Any) -> list[installing.Installed]:
        asked.append((folder, options))
        done = installing.Installed(
            folder=Path("ui/models/Lora"),
            copied=("cats.json", "cats.safetensors"),
            kept=("cats.preview.png",),
            call="in the prompt: <lora:cats:0.8>",
            warnings=("old/cats.pt has the same name",),
        )
        return [done]

    monkeypatch.setattr(installing, "install", instead)
    for folder in ("output", "runs"):
        (tmp_path / folder / "cats").mkdir(parents=True)
    assert lorac("install", "cats", "--webui", "ui") == Called(
        0,
        "copied cats.json, cats.safetensors to ui/models/Lora\n"
        "cats.preview.png already in ui/models/Lora\n"
        "call it: in the prompt: <lora:cats:0.8>\n",
        "warning: old/cats.pt has the same name\n",
    )
    lorac("install", "runs/cats", "--comfyui", "c", "--force")
    assert asked == [
        (Path("output/cats"), {"webui": Path("ui"), "comfyui": None, "force": False}),
        (Path("runs/cats"), {"webui": None, "comfyui": Path("c"), "force": True}),
    ]


def test_install_without_a_run_says_what_is_missing(lorac: Cli) -> None:
    assert lorac("install", "cats", "--webui", "ui") == Called(
        3,
        "",
        "error: cats: there is no such run, neither here nor in output/\n"
        "hint: give a run's folder, or run one here first: lorac run SPEC\n",
    )


@pytest.mark.parametrize(
    ("asked", "hint"), [("catz", "did you mean cats?"), ("zz", "output/ has cats, dogs")]
)
def test_a_run_that_is_not_there_is_told_by_those_that_are(
    lorac: Cli, tmp_path: Path, asked: str, hint: str
) -> None:
    for name in ("dogs", "cats"):
        (tmp_path / "output" / name).mkdir(parents=True)
        (tmp_path / "output" / name / "plan.json").touch()
    lines = f"error: {asked}: there is no such run, neither here nor in output/\nhint: {hint}\n"
    for command in ("report", "verify", "eval", "advise", "chat", "compare", "watch"):
        assert lorac(command, asked) == Called(3, "", lines)


def test_a_run_is_named_by_a_file_in_it_too(lorac: Cli, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "cats.safetensors").touch()
    assert lorac("install", "runs/cats.safetensors", "--webui", "ui").err.startswith(
        "error: runs: holds no finished LoRA"
    )


# ----------------------------------------------------------------------------------------------------- ending


def test_a_bug_ends_in_one_line_and_debug_shows_its_traceback(
    lorac: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(*_: Any, **__: Any) -> plan.Plan:
        raise KeyError("unet")

    monkeypatch.setattr(generate, "compile_experiment", broken)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "cats.py").write_text(SPEC)
    called = lorac("plan", "cats.py")
    assert called.code == 1
    assert called.err.startswith(
        "error: this is a bug in lorac: KeyError: 'unet'\nhint: please report it with "
    )
    for arguments in (["plan", "cats.py", "--debug"], ["--debug", "plan", "cats.py"]):
        assert lorac(*arguments).err.startswith("Traceback (most recent call last):")


def test_ctrl_c_is_130(lorac: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(*_: Any, **__: Any) -> plan.Plan:
        raise KeyboardInterrupt

    monkeypatch.setattr(generate, "compile_experiment", interrupted)
    (tmp_path / "cats.py").write_text(SPEC)
    called = lorac("plan", "cats.py")
    assert (called.code, called.err.splitlines()[-1]) == (130, "error: interrupted")
