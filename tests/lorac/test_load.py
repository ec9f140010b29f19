"""A person's spec file is run, and what it binds, prints, raises or gets wrong is told with file and line."""

# ruff: noqa: E501  (messages are asserted whole, each on its line)

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from lorac.load import load
from lorac.parts import where
from runtime.errors import SpecError

ROOT = Path(__file__).parents[2]
BAD = sorted((Path(__file__).parent / "bad_specs").glob("*.py"))
BEGIN = 'from lorac import *\nexperiment = Experiment(name="a", base="base", data=Images("pictures"))\n'


@pytest.fixture(autouse=True)
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(text: str, name: str = "spec.py") -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(textwrap.dedent(text), encoding="utf-8")
    return name


def refusal(path: str, limit: float = 60.0) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load(path, limit)
    return caught.value.lines()


# ------------------------------------------------------------------------------------------------ what is found


@pytest.mark.parametrize("name", ["quickstart", "cyberpunk"])
def test_the_specs_of_this_project_load(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (loaded,) = load(f"specs/{name}.py")
    assert loaded.path == Path(f"specs/{name}.py")
    lines = loaded.path.read_text(encoding="utf-8").splitlines()
    assert lines[loaded.line - 1] == "experiment = Experiment("
    assert loaded.experiment.folder() == Path("specs")
    line = int(where(loaded.experiment.data, "resolution").split(":")[1])
    assert lines[line - 1].strip().startswith(f"resolution={loaded.experiment.data.resolution}")


def test_a_sweep_is_every_experiment_at_the_top_level_in_its_order_and_once() -> None:
    path = written("""
        from lorac import Experiment, Images, LoRA
        def make(rank):
            return Experiment(name=f"rank-{rank}", base="base", data=Images("p"), adapter=LoRA(rank=rank))
        first = make(2)
        sweep = [make(4), make(8), first]
        named = {"last": make(16)}
        again = first
    """)
    assert [one.experiment.name for one in load(path)] == ["rank-2", "rank-4", "rank-8", "rank-16"]


def test_dataclasses_under_future_annotations_work_in_a_spec() -> None:
    path = written("""
        from __future__ import annotations
        import dataclasses
        from lorac import Experiment, Images
        @dataclasses.dataclass
        class Mine:
            kind: dataclasses.InitVar[int] = 0
            name: str = "mine"
        experiment = Experiment(name=Mine().name, base="base", data=Images("p"))
    """)
    assert load(path)[0].experiment.name == "mine"


def test_a_file_beside_the_spec_shadows_no_module() -> None:
    written("raise SystemError('shadowed')", "specs/random.py")
    path = written("import random\nrandom.Random(0)\n" + BEGIN, "specs/spec.py")
    before = list(sys.path)
    sys.modules.pop("random", None)
    assert load(path)[0].experiment.name == "a"
    assert list(sys.path) == before
    assert not [name for name in sys.modules if name.startswith("lorac_spec")]


def test_a_spec_in_another_encoding_or_with_a_byte_order_mark_is_read_as_python_reads_it() -> None:
    Path("latin.py").write_bytes(
        b"# coding: latin-1\n" + BEGIN.replace('"a"', '"b"').encode() + b"x = '\xe9'\n"
    )
    Path("mark.py").write_bytes(b"\xef\xbb\xbf" + BEGIN.encode())
    assert load("latin.py")[0].experiment.name == "b"
    assert load("mark.py")[0].experiment.name == "a"


def test_a_spec_that_changes_folder_leaves_ours_alone() -> None:
    here = Path.cwd()
    load(written(BEGIN + "import os; os.chdir('/')\n"))
    assert here == Path.cwd()


def test_what_is_not_main_does_not_run() -> None:
    assert load(written(BEGIN + "if __name__ == '__main__': raise SystemExit\n"))


# ------------------------------------------------------------------------------------------------ what is printed


def test_what_a_spec_prints_goes_to_stderr_with_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    path = written("""
        from lorac import Experiment, Images
        import sys
        print("hello", 1)
        def tell():
            print("two\\nlines")
        tell()
        print("to stderr", file=sys.stderr)
        print("no end", end="")
        experiment = Experiment(name="a", base="base", data=Images("p"))
    """)
    load(path)
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == [
        "spec.py:4: hello 1",
        "spec.py:6: two",
        "spec.py:6: lines",
        "spec.py:8: to stderr",
        "spec.py:9: no end",
    ]


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("path", BAD, ids=[path.stem for path in BAD])
def test_a_wrong_spec_is_refused_with_all_its_problems(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    told = refusal(path.relative_to(ROOT).as_posix())
    assert told == path.with_suffix(".txt").read_text(encoding="utf-8").splitlines()


def test_there_are_at_least_ten_wrong_specs() -> None:
    assert len(BAD) >= 10


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "x = (\n1,\ny = 2",
            ["error: spec.py:1: is not valid Python: '(' was never closed", "hint: mend the line, or the one before it"],
        ),
        (
            "a = 1\n  b = 2\n",
            ["error: spec.py:2: is not valid Python: unexpected indent", "hint: mend the line, or the one before it"],
        ),
        (
            "\0",
            ["error: spec.py: is not valid Python: source code string cannot contain null bytes", "hint: give the path of a spec"],
        ),
        (
            "import sys; sys.exit()",
            ["error: spec.py:1: called sys.exit()", "hint: a spec binds its experiment and ends by itself"],
        ),
        ("quit('bye')", ["error: spec.py:1: called sys.exit('bye')", "hint: a spec binds its experiment and ends by itself"]),
        ("def f():\n  f()\nf()", ["error: spec.py:2: raised RecursionError: maximum recursion depth exceeded", "hint: mend that line of the spec"]),
        (
            "import beside",
            [
                "error: spec.py:1: raised ModuleNotFoundError: No module named 'beside'",
                "hint: a spec sees installed packages, not the files beside it: write it in one file",
            ],
        ),
        ("import json\n\njson.loads('{')", ["error: spec.py:3: raised JSONDecodeError: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)", "hint: mend that line of the spec"]),
        ("raise ValueError", ["error: spec.py:1: raised ValueError", "hint: mend that line of the spec"]),
        (
            "class Odd(Exception):\n  def __str__(self): raise Odd\nraise Odd",
            ["error: spec.py:3: raised Odd", "hint: mend that line of the spec"],
        ),
        ("", ["error: spec.py: binds no Experiment at its top level; found nothing", "hint: bind one at the top level: experiment = Experiment(…)"]),
        (
            "import json\nfrom lorac import LoRA\nrank = 4\nclass A: pass\n",
            ["error: spec.py: binds no Experiment at its top level; found int `rank`, class `A`", "hint: bind one at the top level: experiment = Experiment(…)"],
        ),
    ],
)  # fmt: skip
def test_a_file_that_is_no_spec_is_refused_with_its_line(text: str, told: list[str]) -> None:
    assert refusal(written(text)) == told


def test_a_file_that_cannot_be_read_is_refused() -> None:
    assert refusal("none.py") == [
        "error: none.py: cannot be read: No such file or directory",
        "hint: give the path of a spec",
    ]
    assert refusal(".") == ["error: .: cannot be read: Is a directory", "hint: give the path of a spec"]


def test_problems_in_a_file_are_told_in_the_order_of_its_lines() -> None:
    path = written("""
        from lorac import Experiment, Images, LoRA, Samples
        samples = Samples(steps=0)
        experiment = Experiment(
            samples=samples,
            adapter=LoRA(rank=0),
            name="",
            data=Images("p", resolution=1),
            base="b",
        )
        late = LoRA(dropout=-1)
    """)
    with pytest.raises(SpecError) as caught:
        load(path)
    assert [str(problem).split(" must")[0] for problem in caught.value.problems] == [
        "spec.py:3: samples.steps",
        "spec.py:6: adapter.rank",
        "spec.py:7: name",
        "spec.py:8: data.resolution",
        "spec.py:11: adapter.dropout",
    ]


def test_a_spec_that_never_ends_is_stopped_at_its_line_even_if_it_catches_everything() -> None:
    path = written("""
        import time
        while True:
            try:
                time.sleep(0.01)
            except Exception:
                pass
    """)
    (told, hint) = refusal(path, limit=0.2)
    assert told.startswith("error: spec.py:") and told.endswith(": was still running after 0.2 s")
    assert hint == "hint: a spec only describes: end the loop"
    assert int(told.split(":")[2]) in (3, 4, 5)


def test_a_bare_except_does_not_swallow_the_end_of_time() -> None:
    path = written("""
        try:
            while True:
                pass
        except:
            pass
        while True:
            pass
    """)
    assert refusal(path, limit=0.1)[0] in [
        f"error: spec.py:{n}: was still running after 0.1 s" for n in (7, 8)
    ]


def test_the_timer_that_was_running_before_still_runs_afterwards() -> None:
    rung = []
    handler = signal.signal(signal.SIGALRM, lambda *_: rung.append(1))
    timer = signal.setitimer(signal.ITIMER_REAL, 100)
    try:
        load(written(BEGIN))
        left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
        assert 50 < left <= 100
        os.kill(os.getpid(), signal.SIGALRM)
        assert rung
    finally:
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, *timer)


def test_ctrl_c_is_not_taken_for_a_mistake_of_the_spec() -> None:
    with pytest.raises(KeyboardInterrupt):
        load(written("raise KeyboardInterrupt"))


def test_a_spec_loads_in_a_thread_where_no_timer_can_be_set() -> None:
    path, found = written(BEGIN), []
    thread = threading.Thread(target=lambda: found.extend(load(path)))
    thread.start()
    thread.join()
    assert [one.experiment.name for one in found] == ["a"]


def test_outside_of_a_spec_file_problems_are_raised_again_after_a_load() -> None:
    refusal(written("from lorac import LoRA\nLoRA(rank=0)\n"))
    from lorac import LoRA

    with pytest.raises(SpecError):
        LoRA(rank=0)


def test_loading_imports_no_torch() -> None:
    code = f"import sys; from lorac.load import load; load({written(BEGIN)!r}); print('torch' in sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ran.stdout == "False\n"


@pytest.mark.parametrize("name", ["config.yaml", "config.toml", "job.json", "lora.safetensors"])
def test_another_trainers_config_is_no_spec_and_import_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("learning_rate: 1e-4\n")
    with pytest.raises(SpecError) as refused:
        load(tmp_path / name)
    assert refused.value.lines() == [
        f"error: {tmp_path / name}: is no spec: a spec is a Python file",
        f"hint: another trainer's config, or a finished LoRA, becomes one: lorac import {tmp_path / name}",
    ]


def test_a_spec_whose_name_is_misspelt_is_told_by_the_one_beside_it(tmp_path: Path) -> None:
    (tmp_path / "emoji.py").write_text("")
    for wrong, told in (
        ("emjoi.py", f"did you mean {tmp_path / 'emoji.py'}?"),
        ("zz", "give the path of a spec"),
    ):
        with pytest.raises(SpecError) as refused:
            load(tmp_path / wrong)
        assert refused.value.problems[0].hint == told
