"""A finished run of a tiny language model, asked: both sides answer, and what cannot be asked says why."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

from lorac import Answers, Base, Experiment, Fit, Instructions, LoRA, Outputs, Sequences, Train
from lorac.compile import compile_experiment
from runtime import answers, chat, plan, preflight
from runtime.errors import InputError
from runtime.preflight import Where
from runtime.text.render import named_template
from tests.conftest import ROOT
from tests.lorac.calling import Called
from tests.runtime.plans import tiny_plan

PROMPTS = ("What is a cat?", "What is a dog?")
Ask = Callable[..., Called]


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A folder with a tiny language model's base and, in output/pets, a finished run of it. Not to be written to."""
    from runtime.families import causal_lm
    from runtime.run import Options, run

    folder = tmp_path_factory.mktemp("chat")
    causal_lm.tiny(folder / "base")
    rows = [{"instruction": f"What is a {pet}?", "output": f"A {pet} is a pet."} for pet in ("cat", "dog")]
    (folder / "pets.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows * 4))
    experiment = Experiment(
        name="pets",
        base=Base("base"),
        data=Instructions("pets.jsonl"),
        sequences=Sequences(length=128, held_out=0.25),
        adapter=LoRA(rank=4, alpha=8),
        train=Train(effective_batch=2, steps=4, learning_rate=1e-1, warmup_steps=0),
        fit=Fit(card="cpu"),
        samples=Answers(prompts=PROMPTS, max_tokens=12, temperature=1.0, seed=5),
        outputs=Outputs(dtype="fp32"),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        of = compile_experiment(experiment, folder, folder)
        output = Path(of.outputs.places.output)
        where = Where(
            base=Path(of.outputs.places.base),
            data=Path(of.outputs.places.data),
            output=output,
            log=output / "logs",
            cache=cache,
        )
        preflight.check(of, where)
        run(of, Options(where=where))
    return folder


@pytest.fixture
def ask(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ask:
    """Calls `python -m runtime.chat output/pets` in this process, in the project's folder."""
    monkeypatch.chdir(project)

    def call(*options: str, lines: str = "", run: Path | str = "output/pets") -> Called:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
        capsys.readouterr()
        code = chat.main([str(run), *options])
        return Called(code, *capsys.readouterr())

    return call


@pytest.fixture
def copy(project: Path, tmp_path: Path) -> Path:
    """The run, to be damaged."""
    return shutil.copytree(project / "output" / "pets", tmp_path / "pets")


# ---------------------------------------------------------------------------------------------------- answering


def test_json_has_both_answers_to_each_prompt_as_the_run_itself_gave_them(ask: Ask, project: Path) -> None:
    called = ask("--json", *(f"--prompt={prompt}" for prompt in PROMPTS))
    assert (called.code, called.err) == (0, "")
    found = json.loads(called.out)
    assert found == json.loads((project / "output/pets/samples/final.json").read_text())
    assert all(one["base"] != one["adapted"] for one in found)


def test_lines_are_answered_until_an_empty_one(ask: Ask) -> None:
    asked = ask(lines="What is a cat?\n\nWhat is a dog?\n")
    (said,) = json.loads(ask("--json", "--prompt=What is a cat?").out)
    assert (asked.code, asked.err) == (0, "")
    shown = [chat.laid("base", said["base"], None), chat.laid("LoRA", said["adapted"], None)]
    assert asked.out == "\n".join(["> What is a cat?", *shown, "", ""])


@pytest.mark.parametrize("lines", ["", "exit\nWhat is a cat?\n", "  \n"])
def test_the_end_of_input_exit_and_a_blank_line_end_it(ask: Ask, lines: str) -> None:
    assert ask(lines=lines) == Called(0, "", "")


def test_a_drawn_answer_depends_on_the_seed_alone(ask: Ask) -> None:
    drawn = [ask("--json", "--prompt=cat", f"--seed={seed}").out for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_options_change_what_the_plan_says(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[Any, ...]] = []

    def generated(model: Any, tokenizer: Any, *rest: Any) -> str:
        given.append(rest)
        return ""

    monkeypatch.setattr(answers, "generated", generated)
    ask("--prompt=cat", "--prompt=dog")
    ask("--prompt=cat", "--system=You purr.", "--max-tokens=3", "--temperature=0.5", "--seed=9")
    template = named_template("chatml")
    cat, dog = ({"role": "user", "content": pet} for pet in ("cat", "dog"))
    system = {"role": "system", "content": "You purr."}
    assert given == [
        *[([cat], template, 12, 1.0, 5)] * 2,
        *[([dog], template, 12, 1.0, 6)] * 2,
        *[([system, cat], template, 3, 0.5, 9)] * 2,
    ]


def test_more_tokens_make_an_answer_longer(ask: Ask) -> None:
    short, long = (
        json.loads(ask("--json", "--prompt=cat", *options).out)[0]["base"]
        for options in ([], ["--max-tokens=40"])
    )
    assert long.startswith(short[:5])
    assert len(long) > len(short)


def test_the_base_may_lie_elsewhere(ask: Ask, project: Path, copy: Path, tmp_path: Path) -> None:
    base = shutil.copytree(project / "base", tmp_path / "elsewhere")
    there = ask("--json", "--prompt=cat", f"--base={base}", run=copy)
    assert there == ask("--json", "--prompt=cat")


def test_what_a_model_says_cannot_steer_the_terminal() -> None:
    assert chat.laid("base", "a\x1b[2Jb\n\tc", None) == "base: a\\x1b[2Jb\n          c"


def test_answers_are_wrapped_below_their_first_line() -> None:
    assert chat.laid("LoRA", "one two three four five six", 26) == "LoRA: one two three four\n      five six"
    assert chat.laid("LoRA", "", 26) == "LoRA: "


def test_without_its_card_a_plan_is_computed_by_the_cpu_with_nothing_away() -> None:
    planned = plan.Compute(
        device="cuda", threads=0, dtype="bf16", checkpointed=("model.a",), offloaded=("model.a",)
    )
    here = chat.computed(planned, has_cuda=False)
    assert (here.device, here.threads, here.offloaded) == ("cpu", os.cpu_count(), ())
    there = chat.computed(planned, has_cuda=True)
    assert (there.device, there.checkpointed, there.offloaded) == ("cuda", (), ("model.a",))


# ---------------------------------------------------------------------------------------------- what is refused


def test_a_run_of_pictures_is_refused_with_what_to_do(
    ask: Ask, tmp_path: Path, tiny_base: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan.write(tiny_plan(tiny_base, tiny_data), tmp_path / "output" / "tiny" / "plan.json")
    monkeypatch.chdir(tmp_path)
    assert ask(run="output/tiny") == Called(
        2,
        "",
        "error: output/tiny: is a LoRA for pictures, which answers nothing\n"
        "hint: prompt it in the WebUI: lorac install output/tiny --webui DIR\n",
    )


def test_a_folder_without_a_run_is_refused(ask: Ask) -> None:
    assert ask(run="output/cats") == Called(
        3,
        "",
        "error: output/cats: there is no run here\nhint: give a run's name in output/, or its folder\n",
    )


def test_an_unfinished_run_is_refused_with_how_to_finish_it(
    ask: Ask, copy: Path, monkeypatch: pytest.MonkeyPatch, project: Path
) -> None:
    (copy / "pets.lorac.json").unlink()
    called = ask("--prompt=cat", run=copy)
    assert called.code == 3
    assert called.err == f"error: {copy}: holds no finished LoRA\nhint: finish it: lorac run {copy}\n"


def test_every_file_that_is_not_as_the_manifest_says_is_named(ask: Ask, copy: Path) -> None:
    with (copy / "adapter_model.safetensors").open("ab") as file:
        file.write(b"x")
    (copy / "adapter_config.json").unlink()
    called = ask("--prompt=cat", run=copy)
    assert (called.code, called.out) == (3, "")
    assert called.err.splitlines() == [
        f"error: {copy}/adapter_model.safetensors: changed since it was made",
        f"error: {copy}/adapter_config.json: is missing",
        "hint: run the plan again: it makes what is missing",
    ]


def test_another_base_and_a_missing_one_are_refused(ask: Ask, project: Path, tmp_path: Path) -> None:
    base = shutil.copytree(project / "base", tmp_path / "base")
    with (base / "model.safetensors").open("ab") as file:
        file.write(b"x")
    changed = ask("--prompt=cat", f"--base={base}")
    assert (changed.code, changed.err.splitlines()[0]) == (
        4,
        f"error: {base}: the base changed since planning",
    )
    gone = ask("--prompt=cat", f"--base={tmp_path / 'gone'}")
    assert (gone.code, gone.err.splitlines()[0]) == (3, f"error: {tmp_path / 'gone'}: the base is not here")


def test_all_that_is_wrong_in_the_options_is_told_at_once(ask: Ask) -> None:
    called = ask("--json", "--max-tokens=0", "--temperature=nan", "--seed=-1")
    assert called == Called(
        2,
        "",
        "error: --json: is for what --prompt asks\n"
        "error: --max-tokens: must be at least 1, got 0\n"
        "error: --temperature: must be 0 or more and finite, got nan\n"
        "error: --seed: must be between 0 and 2**63 - 1, got -1\n",
    )


def test_tensors_that_are_not_the_plans_adapter_are_refused(project: Path) -> None:
    of = plan.read(project / "output/pets/plan.json")
    other = attrs.evolve(of.program, adapter=attrs.evolve(of.program.adapter, rank=2))
    from runtime import step
    from runtime.families import causal_lm

    modules = {"model": causal_lm.build(of.program.base.architecture, "model")}
    step.attach(modules, other)
    with pytest.raises(InputError, match="not those of the plan's adapter"):
        chat.fill(modules, other, project / "output/pets/adapter_model.safetensors")


def test_a_full_card_is_the_machines_failure() -> None:
    with pytest.raises(chat.MachineError) as raised, chat.roomy():
        raise torch.OutOfMemoryError("CUDA out of memory")
    assert raised.value.lines()[0] == "error: memory: the card's memory is full"


# -------------------------------------------------------------------------------------------------- a terminal


def test_on_a_terminal_it_prompts_and_ctrl_c_ends_it_quietly_with_130(project: Path) -> None:
    above, below = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "runtime.chat", "output/pets"],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "dumb"},
        stdin=below,
        stdout=below,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(below)
    shown = b""
    while not shown.endswith(b"> "):
        shown += os.read(above, 1000)
    assert shown.decode().startswith("pets on base: each line is asked alone, an empty one ends")
    while process.poll() is None:  # Python's readline does not see a signal that came just before it waits
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)  # of a busy machine: a second one at its very end would end it otherwise
    _, said = process.communicate()
    os.close(above)
    assert (process.returncode, said) == (130, "")


def test_one_process_streams_the_blocks_that_several_split() -> None:
    split = plan.Compute(device="cuda", threads=0, dtype="bf16", checkpointed=(), sharded=("model.layers.0",))

    on_a_card, on_a_cpu = (chat.computed(split, has_cuda) for has_cuda in (True, False))
    assert (on_a_card.sharded, on_a_card.offloaded) == ((), ("model.layers.0",))
    assert (on_a_cpu.sharded, on_a_cpu.offloaded) == ((), ())
