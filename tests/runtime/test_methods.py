"""What an adapter method trains is what its files hold: language models, planned, trained, loaded by peft."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from lorac import Conversations, Experiment, Fit, Images, LoRA, Outputs, Sequences, Train
from lorac.compile import compile_experiment
from runtime import checkpoint, plan, preflight, step
from runtime.dtypes import DTYPES
from runtime.errors import Interrupted, SpecError
from runtime.export.peft import FILE
from runtime.families import causal_lm
from runtime.preflight import Where
from runtime.run import Options, adapt, run
from runtime.safeio.weights import open_weights


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random language model and conversations of several lengths."""
    folder = tmp_path_factory.mktemp("methods")
    causal_lm.tiny(folder / "base")
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"{number}?"},
                {"role": "assistant", "content": "no " * (number % 5 + 1)},
            ]
        }
        for number in range(12)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "data.jsonl").write_text(text, encoding="utf-8")
    return folder


def planned(
    project: Path,
    adapter: LoRA,
    packing: bool = True,
    dtype: str = "fp32",
    quantization: str = "none",
    **train: float,
) -> plan.Plan:
    """Four steps of four sequences."""
    experiment = Experiment(
        name="tiny",
        base="base",
        data=Conversations("data.jsonl"),
        sequences=Sequences(length=128, packing=packing),
        adapter=adapter,
        train=Train(effective_batch=4, steps=4, **{"learning_rate": 1e-2, **train}),  # type: ignore[arg-type]
        fit=Fit(card="cpu", dtype=dtype, threads=1, quantization=quantization),  # type: ignore[arg-type]
        outputs=Outputs(dtype="fp32", save_steps=2),
    )
    return compile_experiment(experiment, project, project, None, False)


def carried_out(
    of: plan.Plan, project: Path, folder: Path, fault: Callable[[int], None] = lambda step: None
) -> Path:
    """Run the plan in `folder`; where its files are."""
    output = folder / "tiny"
    places = Where(
        base=project / "base", data=project, output=output, log=output / "logs", cache=project / "cache"
    )
    preflight.check(of, places)
    return run(of, Options(where=places, fault=fault))


def stopped_at(step: int, of: plan.Plan, project: Path, folder: Path) -> None:
    """Run the plan until it is stopped at a step."""

    def stop(at: int) -> None:
        if at == step:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted):
        carried_out(of, project, folder, stop)


def masters(run: Path) -> dict[str, torch.Tensor]:
    """What the last checkpoint holds, by module and part, without the component."""
    with open_weights(run / "checkpoints" / "step-000004" / "adapter.safetensors") as file:
        return {name.removeprefix("model."): file.load(name) for name in file}


def base(project: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(project / "base", dtype=torch.float32).eval()


@pytest.mark.method("peft", row="rsLoRA")
def test_rslora_s_strength_is_in_the_file_whatever_its_reader_knows(project: Path, tmp_path: Path) -> None:
    of = planned(project, LoRA(rank=4, alpha=8, rslora=True))
    made = carried_out(of, project, tmp_path)
    trained, plain = masters(made), base(project)
    merged = PeftModel.from_pretrained(base(project), made).merge_and_unload()

    assert json.loads((made / "adapter_config.json").read_text())["use_rslora"] is False
    names = [name.removesuffix(".A") for name in trained if name.endswith(".A")]
    assert len(names) == 14
    for name in names:
        change = merged.get_submodule(name).weight - plain.get_submodule(name).weight
        expected = 8 / 4**0.5 * trained[f"{name}.B"] @ trained[f"{name}.A"]
        assert expected.abs().max() > 1e-3
        assert torch.allclose(change, expected, atol=1e-6)


def test_lora_plus_moves_b_by_its_own_rate(project: Path) -> None:
    """AdamW's first step is its learning rate in size, whatever the gradient: B moves 16 times as far as A."""
    of = planned(project, LoRA(rank=4), learning_rate=1e-4, lora_plus_ratio=16.0)
    made = adapted(of, project)
    before = {name: master.detach().clone() for name, master in made.masters.items()}
    for master in made.masters.values():
        master.grad = torch.ones_like(master)
    step.update(made, 1.0)

    for name, master in made.masters.items():
        moved = (before[name] * (1 - decay(made, master)) - master).detach().mean().item()
        assert moved == pytest.approx(16e-4 if name.endswith(".B") else 1e-4, rel=1e-3)


def adapted(of: plan.Plan, project: Path) -> step.Trainee:
    """The base with the plan's adapter on it, before the first step."""
    return adapt(causal_lm, {"model": base(project)}, of.program)  # type: ignore[arg-type]


def decay(of: step.Trainee, master: torch.Tensor) -> float:
    """What a step takes off a parameter by weight decay."""
    group = next(g for g in of.optimizer.param_groups if any(p is master for p in g["params"]))
    return float(group["lr"] * group["weight_decay"])


def test_noise_on_tokens_is_the_same_for_any_micro_batch_and_after_a_stop(
    project: Path, tmp_path: Path
) -> None:
    of = planned(project, LoRA(rank=2, dropout=0.1), packing=False, neftune_alpha=5.0)
    train = attrs.evolve(of.program.train, micro_batch=1, accumulation=4)
    smaller = plan.make(attrs.evolve(of.program, train=train), of.outputs, of.estimate)
    calm = planned(project, LoRA(rank=2, dropout=0.1), packing=False)
    through = carried_out(of, project, tmp_path / "through")

    stopped_at(2, of, project, tmp_path / "stopped")
    resumed = carried_out(of, project, tmp_path / "stopped")

    assert (resumed / FILE).read_bytes() == (through / FILE).read_bytes()
    whole, parts = masters(through), masters(carried_out(smaller, project, tmp_path / "smaller"))
    without = masters(carried_out(calm, project, tmp_path / "calm"))
    assert all(torch.allclose(whole[name], parts[name], atol=1e-4) for name in whole)
    assert not all(torch.allclose(whole[name], without[name], atol=1e-3) for name in whole)


def test_noise_on_tokens_is_refused_for_pictures() -> None:
    with pytest.raises(SpecError, match="is noise on a language model's tokens, and the data are pictures"):
        Experiment(name="a", base="base", data=Images("pictures"), train=Train(neftune_alpha=5.0))


@pytest.mark.method("peft", row="DoRA")
def test_dora_trains_resumes_and_is_what_peft_loads(project: Path, tmp_path: Path) -> None:
    of = planned(project, LoRA(rank=4, alpha=6.5, dora=True))
    through = carried_out(of, project, tmp_path / "through")
    stopped_at(2, of, project, tmp_path / "stopped")
    resumed = carried_out(of, project, tmp_path / "stopped")
    assert (resumed / FILE).read_bytes() == (through / FILE).read_bytes()

    ours = adapted(of, project)
    first = {name: master.detach().clone() for name, master in ours.masters.items()}
    checkpoint.restore(through / "checkpoints" / "step-000004", ours)
    moved = [(ours.masters[name] - first[name]).abs().max() for name in first if name.endswith(".M")]
    assert len(moved) == 14 and min(moved) > 1e-3
    tokens = torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        mine = ours.modules["model"].eval()(tokens).logits
        theirs = PeftModel.from_pretrained(base(project), through).eval()(tokens).logits
        plain = base(project)(tokens).logits
    assert (mine - plain).abs().max() > 1e-2
    assert torch.allclose(mine, theirs, atol=1e-4)
    manifest = json.loads((through / "tiny.lorac.json").read_text())
    verdicts = {one["consumer"]: one["loads"] for one in manifest["consumers"]}
    assert verdicts == {"PEFT": "loads", "vLLM": "refuses", "llama.cpp": "refuses"}


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_dora_on_a_packed_base_begins_at_that_base(project: Path, quantization: str) -> None:
    of = planned(project, LoRA(rank=4, dora=True), quantization=quantization)
    modules = {"model": base(project)}
    step.pack(causal_lm, modules, of.program.compute)  # type: ignore[arg-type]
    tokens = torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        before = modules["model"](tokens).logits
        after = adapt(causal_lm, modules, of.program).modules["model"](tokens).logits  # type: ignore[arg-type]
    assert torch.allclose(before, after, atol=1e-6)


def test_gradients_of_magnitudes_are_those_of_full_precision_in_fp16_too(project: Path) -> None:
    found = {}
    for dtype in ("fp32", "fp16"):
        of = planned(project, LoRA(rank=4, dora=True), dtype=dtype)
        modules = {"model": base(project).to(DTYPES[of.program.compute.dtype])}
        made = adapt(causal_lm, modules, of.program)  # type: ignore[arg-type]
        batch = causal_lm.example(of.program.base.architecture, 2, (16,), False)
        step.gradients(made, [(batch, [1, 2])], 2)
        found[dtype] = torch.cat(
            [m.grad for n, m in made.masters.items() if n.endswith(".M") and m.grad is not None]
        )
    assert found["fp32"].norm() > 1e-3
    assert (found["fp16"] - found["fp32"]).norm() < 0.05 * found["fp32"].norm()
