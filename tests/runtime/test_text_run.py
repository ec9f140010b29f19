"""A language model's plan, carried out: planned from a spec, trained, written, read by PEFT, the same each time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from lorac import Answers
from lorac.generate import generate
from lorac.load import load
from runtime import checkpoint, plan
from runtime.errors import PlanError
from runtime.export import manifest as manifests
from runtime.export import uses
from runtime.families import family
from runtime.preflight import Where
from runtime.safeio.weights import open_weights
from tests import texts

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM's `--max-lora-rank` may be; an adapter's own rank is at most that (facts/outputs.md, part 4)."""

KILLED_BEFORE = 3
"""The step before which the run is killed: one after its first checkpoint, one before its second."""

SPEC = """\
from lorac import Experiment, Fit, Instructions, LoRA, Sequences, Train

experiment = Experiment(
    name="tiny",
    base={base!r},
    data=Instructions({data!r}),
    sequences=Sequences(length=128),
    adapter=LoRA(rank=4),
    train=Train(effective_batch=2, steps=2),
    fit=Fit(card="cpu", threads=1),
)
"""


@pytest.fixture(scope="module")
def of(tiny_lm: Path, tiny_text: Path, tmp_path_factory: pytest.TempPathFactory) -> plan.Plan:
    return texts.planned(
        tiny_lm,
        tiny_text,
        tmp_path_factory.mktemp("planned"),
        held_out=0.2,
        dropout=0.1,
        samples=Answers(prompts=("Say 3",), max_tokens=4),
    )


@pytest.fixture(scope="module")
def places(of: plan.Plan, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Where:
    return texts.where(of, tmp_path_factory.mktemp("through"), cache)


@pytest.fixture(scope="module")
def through(of: plan.Plan, places: Where) -> Path:
    """The adapter's file of a run that nothing disturbed."""
    return texts.carry_out(of, places)


@pytest.mark.family("detect", "load folder", row="causal_lm")
def test_a_spec_becomes_a_plan_and_an_adapter(
    tiny_lm: Path, tiny_text: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "spec.py").write_text(SPEC.format(base=str(tiny_lm), data=str(tiny_text)), encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    (written,) = generate(load(tmp_path / "spec.py"), Path("generated"))
    made = texts.carry_out(plan.read(written.path), texts.where(written.plan, tmp_path / "output", cache))

    assert written.path == Path("generated/tiny/plan.json")
    assert plan.read(made.parent / "plan.json") == written.plan
    assert all(tensor.isfinite().all() for tensor in _tensors(made).values())


@pytest.mark.family("sample", "export", row="causal_lm")
def test_a_run_writes_the_adapter_its_config_a_manifest_and_answers(of: plan.Plan, through: Path) -> None:
    folder = through.parent
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    manifest = json.loads((folder / "tiny.lorac.json").read_text(encoding="utf-8"))

    assert written >= {
        "adapter_config.json",
        "adapter_model.safetensors",
        "plan.json",
        "tiny.lorac.json",
        "logs/metrics.jsonl",
        "samples/000002.json",
        "samples/000004.json",
        "samples/final.json",
        "checkpoints/step-000004/DONE.json",
        "checkpoints/step-000006/DONE.json",
    }
    assert manifest["plan_hash"] == of.plan_hash
    (answer,) = json.loads((folder / "samples/final.json").read_text(encoding="utf-8"))
    assert answer.keys() == {"prompt", "base", "adapted"}
    assert answer["prompt"] == "Say 3"
    assert list(uses.told(manifests.read(folder / "tiny.lorac.json"), folder)) == [
        f"The LoRA is the folder {folder}; with it and without: lorac chat {folder}"
    ]


def test_training_lowers_the_loss_of_what_is_held_out(places: Where, of: plan.Plan, through: Path) -> None:
    found = checkpoint.newest(places.output / "checkpoints", of.plan_hash)
    assert found is not None
    held_out = found[1].held_out

    assert sorted(held_out) == ["0", "2", "4", "6"]
    assert held_out["6"].loss < held_out["0"].loss


@pytest.mark.family("re-load, equal output", row="causal_lm")
@pytest.mark.parametrize("alpha", [8.0, 5.5])
def test_peft_computes_what_the_runtime_trained(
    tiny_lm: Path, tiny_text: Path, cache: Path, tmp_path: Path, alpha: float
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    of = texts.planned(tiny_lm, tiny_text, tmp_path / "planned", steps=2, alpha=alpha)
    places = texts.where(of, tmp_path, cache)
    folder = texts.carry_out(of, places).parent
    tokens = torch.arange(40).unsqueeze(0) * 6

    ours = _trained(of, places)
    base = AutoModelForCausalLM.from_pretrained(tiny_lm)
    with torch.no_grad():
        before = base(tokens).logits
        loaded = PeftModel.from_pretrained(base, str(folder)).eval()
        found, wanted = loaded(tokens).logits, ours(tokens).logits

    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert (found - before).abs().max() > 1e-3
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert type(config["lora_alpha"]) is int
    assert config["lora_alpha"] == (8 if alpha == 8 else 4)
    assert config["target_modules"] == [
        "down_proj",
        "gate_proj",
        "k_proj",
        "o_proj",
        "q_proj",
        "up_proj",
        "v_proj",
    ]


def test_the_adapter_keeps_vllms_rules(tiny_lm: Path, through: Path) -> None:
    """facts/outputs.md, part 4: what vLLM asks of the config and of the tensors' names."""
    config = json.loads((through.parent / "adapter_config.json").read_text(encoding="utf-8"))
    rank = config["r"]
    linear = _linear(tiny_lm)

    assert config.keys() >= {"r", "lora_alpha", "target_modules"}
    assert not config["modules_to_save"]
    assert not config["use_dora"]
    assert config["bias"] == "none"
    assert (config["rank_pattern"], config["alpha_pattern"]) == ({}, {})
    assert any(rank <= allowed for allowed in VLLM_RANKS)
    for name, tensor in _tensors(through).items():
        module, part, kind = name.rsplit(".", 2)
        module = module.removeprefix("base_model.model.")
        assert (part, kind) in (("lora_A", "weight"), ("lora_B", "weight"))
        assert module in linear
        assert module.rpartition(".")[2] in config["target_modules"]
        width_in, width_out = linear[module]
        assert tuple(tensor.shape) == ((rank, width_in) if part == "lora_A" else (width_out, rank))


def test_the_same_plan_gives_the_same_bytes(
    of: plan.Plan, through: Path, cache: Path, tmp_path: Path
) -> None:
    again = texts.carry_out(of, texts.where(of, tmp_path, tmp_path / "another cache"))

    assert again.read_bytes() == through.read_bytes()


KILLED = """\
import os, signal, sys
from pathlib import Path
from runtime import plan
from tests import texts

def kill(step):
    if step == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

of = plan.read(Path(sys.argv[1]))
texts.carry_out(of, texts.where(of, Path(sys.argv[2]), Path(sys.argv[2]) / "cache"), kill)
"""


@pytest.mark.family("resume", row="causal_lm")
def test_a_killed_run_goes_on_to_the_same_bytes(
    of: plan.Plan, through: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plan.write(of, tmp_path / "plan.json")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "plan.json"), str(tmp_path), str(KILLED_BEFORE)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}

    killed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)

    assert killed.returncode == -signal.SIGKILL, killed.stderr
    names = [path.name for path in checkpoint.whole(tmp_path / "tiny" / "checkpoints")]
    assert names == ["step-000000", "step-000002"]
    resumed = texts.carry_out(of, texts.where(of, tmp_path, tmp_path / "cache"))
    assert "Resuming from step-000002" in capfd.readouterr().out
    assert resumed.read_bytes() == through.read_bytes()


@pytest.mark.parametrize("packing", [True, False])
def test_a_smaller_micro_batch_trains_the_same_thing(
    tiny_lm: Path, tiny_text: Path, cache: Path, tmp_path: Path, packing: bool
) -> None:
    whole = texts.planned(tiny_lm, tiny_text, tmp_path / "planned", packing=packing, dropout=0.1)
    train = attrs.evolve(whole.program.train, micro_batch=1, accumulation=4)
    single = plan.make(attrs.evolve(whole.program, train=train), whole.outputs, whole.estimate)

    ours, theirs = (
        _tensors(texts.carry_out(one, texts.where(one, tmp_path / str(at), cache)))
        for at, one in enumerate((whole, single))
    )

    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], atol=1e-4, rtol=1e-3)


def test_a_pattern_that_also_matches_what_is_not_linear_adapts_what_is(
    tiny_lm: Path, tiny_text: Path, cache: Path, tmp_path: Path
) -> None:
    of = texts.planned(
        tiny_lm, tiny_text, tmp_path / "planned", targets=r"re:.*layers\.1\.self_attn.*", steps=2
    )
    tensors = _tensors(texts.carry_out(of, texts.where(of, tmp_path, cache)))

    assert of.program.adapter.modules == {"model": 4}
    assert len(tensors) == 2 * 4


def test_an_edited_data_file_is_refused_by_name(
    tiny_lm: Path, tiny_text: Path, cache: Path, tmp_path: Path
) -> None:
    data = tmp_path / "text" / "questions.jsonl"
    data.parent.mkdir()
    data.write_bytes(tiny_text.read_bytes())
    of = texts.planned(tiny_lm, data, tmp_path / "planned")
    data.write_bytes(data.read_bytes().replace(b"Say 3", b"Ask 3"))

    with pytest.raises(PlanError) as refused:
        texts.carry_out(of, texts.where(of, tmp_path / "run", cache))

    assert refused.value.exit_code == 4
    assert refused.value.lines() == [
        f"error: {data}: changed since planning",
        "hint: make the plan again and review it: lorac plan SPEC",
    ]


def _trained(of: plan.Plan, places: Where) -> Any:
    """The model as the runtime holds it after the last step."""
    from runtime import run

    architecture = family(of.program.base.family)
    modules, _ = run.load(architecture, of.program, places, torch.device("cpu"))
    trainee = run.adapt(architecture, modules, of.program)
    found = checkpoint.newest(places.output / "checkpoints", of.plan_hash)
    assert found is not None
    checkpoint.restore(found[0], trainee)
    return modules["model"].eval()


def _linear(base: Path) -> dict[str, tuple[int, int]]:
    """The widths in and out of every linear layer of a base, by its path."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    return {
        name: (module.in_features, module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }


def _tensors(path: Path) -> dict[str, Tensor]:
    with open_weights(path) as file:
        return {name: file.load(name) for name in file}
