"""Blocks compiled by torch for the train step: whole, the same bytes each time, and refused where they cannot be."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from lorac.compiled import compiled as with_blocks_compiled
from runtime import adapters, compiled, compiler, plan, preflight
from runtime.adapters import adapted
from runtime.errors import MachineError, PlanError
from runtime.families import causal_lm
from runtime.safeio.weights import open_weights
from tests import texts
from tests.runtime.families.test_causal_lm import ARCHITECTURES
from tests.runtime.test_text_run import KILLED, KILLED_BEFORE

ROWS, LENGTH = 2, 16
needs_a_compiler = pytest.mark.skipif(not compiler.version(), reason=compiler.MISSING)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama of one layer: one graph."""
    config = AutoConfig.for_model("llama", **{**causal_lm.TINY, "num_hidden_layers": 1})
    return causal_lm.tiny(tmp_path_factory.mktemp("one layer") / "lm", config)


@pytest.fixture(scope="module")
def eager(base: Path, tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> plan.Plan:
    """Its plan with nothing compiled. Some of its micro-batches are half."""
    return texts.planned(
        base,
        tiny_text,
        tmp_path_factory.mktemp("planned"),
        dtype="bf16",
        micro_batch=2,
        accumulation=2,
        held_out=0.2,
        compile=False,
    )


def made(of: plan.Plan, **compute: Any) -> plan.Plan:
    """The plan with its blocks compiled, and these fields of its compute."""
    program = with_blocks_compiled(of.program)
    program = attrs.evolve(program, compute=attrs.evolve(program.compute, **compute))
    return plan.make(program, of.outputs, of.estimate)


@pytest.fixture
def divided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Torch takes blocks apart and puts them together again, and makes no code: no compiler is needed."""
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    torch._dynamo.reset()
    with compiled.in_folder(tmp_path / "files"):
        yield
    torch._dynamo.reset()


METHODS = ("lora", "dora", "loha", "lokr", "vera", "ia3")
ONE_GRAPH = [("lora", kind) for kind in sorted(causal_lm.ONE_GRAPH)] + [(one, "llama") for one in METHODS[1:]]


@pytest.mark.parametrize(("method", "kind"), ONE_GRAPH)
def test_a_block_is_one_graph_with_the_gradients_that_it_has_eager(
    method: str, kind: str, divided: None
) -> None:
    config = AutoConfig.for_model(kind, **ARCHITECTURES[kind][0])
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    (pattern,) = causal_lm.targets({"model": config.to_dict()}, "all-linear", False).values()
    adapter = plan.Adapter(
        method="lora" if method == "dora" else method,
        rank=2,
        alpha=2.0,
        dropout=0.0,
        init="kaiming",
        targets={"model": pattern},
        modules={},
        dora=method == "dora",
    )
    adapters.attach(model, pattern, adapter)
    parts = adapted.parameters(model)
    adapted.initialise(model, "model", 0)
    with torch.no_grad():
        for part in parts.values():
            part.requires_grad_(True).add_(0.01)
    model.train()

    before = gradients(model, parts)
    compiled.compile_blocks(causal_lm.blocks({"model": model}).values(), ROWS)
    after = gradients(model, parts)

    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    for name, gradient in before.items():
        torch.testing.assert_close(after[name], gradient, atol=1e-5, rtol=1e-4)


def gradients(model: Any, parts: dict[str, torch.nn.Parameter]) -> dict[str, Tensor]:
    """Of two packed sequences."""
    ids = torch.arange(ROWS * LENGTH).view(ROWS, LENGTH) % 250
    places = (torch.arange(LENGTH) % (LENGTH // 2)).expand(ROWS, LENGTH)
    hidden = model.base_model(input_ids=ids, position_ids=places, use_cache=False).last_hidden_state
    found = torch.autograd.grad(hidden.float().square().mean(), list(parts.values()))
    return dict(zip(parts, found, strict=True))


def test_what_is_held_out_and_a_smaller_micro_batch_go_through_the_module_itself(
    divided: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def compile_(forward: Any, **options: Any) -> Any:
        def run(hidden: Tensor) -> Tensor:
            asked.append(len(hidden))
            return forward(hidden)

        return run

    monkeypatch.setattr(torch, "compile", compile_)
    block = torch.nn.Linear(4, 4)
    compiled.compile_blocks([block], rows=3)

    block(torch.rand(2, 4))
    with torch.no_grad():
        block(torch.rand(3, 4))
    assert not asked
    block(torch.rand(3, 4))
    assert asked == [3]


@needs_a_compiler
def test_a_killed_run_goes_on_to_the_same_bytes(
    eager: plan.Plan, cache: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    of = made(eager)
    through = texts.carry_out(of, texts.where(of, tmp_path / "through", cache))
    plan.write(of, tmp_path / "plan.json")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "plan.json"), str(tmp_path), str(KILLED_BEFORE)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}

    killed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert "Compiling 1 blocks: the first step takes longer" in killed.stdout
    assert [path.name for path in (tmp_path / "tiny" / compiled.FOLDER).iterdir()]
    resumed = texts.carry_out(of, texts.where(of, tmp_path, tmp_path / "cache"))
    assert "Resuming from step-000002" in capfd.readouterr().out
    assert resumed.read_bytes() == through.read_bytes()
    assert not (tmp_path / "tiny" / compiled.FOLDER).exists()

    again = made(eager, checkpointed=("model.model.layers.0",))
    recomputed = texts.carry_out(again, texts.where(again, tmp_path / "recomputed", cache))
    uncompiled = texts.carry_out(eager, texts.where(eager, tmp_path / "eager", cache))
    for name, tensor in tensors(through).items():
        assert tensors(recomputed)[name].equal(tensor), name
        torch.testing.assert_close(tensors(uncompiled)[name], tensor, atol=5e-3, rtol=0)


def tensors(path: Path) -> dict[str, Tensor]:
    with open_weights(path) as file:
        return {name: file.load(name) for name in file}


def test_a_block_that_cannot_be_compiled_ends_in_what_to_do(divided: None) -> None:
    block = torch.nn.Linear(4, 4)
    block.forward = lambda hidden: hidden if hidden.sum() > 0 else -hidden
    compiled.compile_blocks([block], rows=3)
    with pytest.raises(MachineError) as refused, compiled.in_folder(Path()):
        block(torch.rand(3, 4))
    assert refused.value.lines()[0].startswith("error: fit.compile: a block cannot be compiled: ")
    assert refused.value.lines()[1] == f"hint: {compiled.WITHOUT}"


def test_a_signal_reaches_the_run_and_not_the_compiler() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with compiled.undisturbed():
            child = subprocess.Popen(["sleep", "60"])
            child.send_signal(signal.SIGTERM)
            child.send_signal(signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                child.wait(timeout=0.5)
        child.kill()
        assert child.wait() == -signal.SIGKILL
        assert heard == [signal.SIGTERM]
        assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & {signal.SIGINT, signal.SIGTERM}
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"compute": {"dtype": "fp32"}}, "not in fp32"),
        ({"compute": {"device": "cuda", "threads": 0}}, "not on a card"),
        ({"compute": {"attention_chunks": 2}}, "not with attention in slices"),
        ({"compute": {"offloaded": ("model.model.layers.0",)}}, "not with blocks offloaded"),
        ({"data": {"packing": False}}, "rows have many lengths"),
        ({"adapter": {"rank_dropout": 0.1}}, "dropout's masks"),
        ({"train": {"processes": 2, "accumulation": 1}}, "not with several processes"),
    ],
)
def test_a_plan_with_compiled_blocks_that_cannot_be_is_refused(
    change: dict[str, dict[str, Any]], why: str, eager: plan.Plan
) -> None:
    program = made(eager).program
    for part, fields in change.items():
        program = attrs.evolve(program, **{part: attrs.evolve(getattr(program, part), **fields)})
    if "train" in change:
        program = attrs.evolve(program, train=attrs.evolve(program.train, fallbacks=()))
    with pytest.raises(PlanError, match=f"compute.compiled cannot be: {why}"):
        plan.loads(plan.dumps(plan.make(program, eager.outputs, eager.estimate)))


def test_another_compiler_is_another_version(
    eager: plan.Plan, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiler, "version", lambda: "g++ 12.2.0")
    of, places = made(eager), texts.where(eager, tmp_path, cache)
    preflight.check(of, places)

    monkeypatch.setattr(compiler, "version", lambda: "g++ 13.1.0")
    with pytest.raises(
        MachineError, match=re.escape("version g++ 13.1.0 is installed, the plan was made with g++ 12.2.0")
    ):
        preflight.check(of, places)
    preflight.check(of, places, accept_versions=True)

    monkeypatch.setattr(compiler, "version", lambda: "")
    with pytest.raises(MachineError, match=re.escape(compiler.MISSING)):
        preflight.check(of, places, accept_versions=True)
