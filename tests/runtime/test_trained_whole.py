"""Token embeddings and the head, trained whole beside the LoRA: planned, trained, resumed, loaded by peft, compared."""

from __future__ import annotations

import json
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, LlamaConfig

from lorac import IA3, LoHa, LoKr, LoRA, VeRA
from lorac.compile import compile_experiment
from lorac.estimate import phases
from lorac.estimate.trace import measure
from runtime import chat, plan, step
from runtime import run as running
from runtime.adapters.whole import Whole
from runtime.errors import Interrupted, SpecError
from runtime.families import causal_lm
from runtime.safeio.weights import open_weights
from tests import texts

BOTH = ("embeddings", "lm_head")
TOKENS = torch.arange(40).reshape(2, 20)


@pytest.fixture(scope="session")
def untied_lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama whose head is a weight of its own. Not to be written to."""
    config = LlamaConfig(**causal_lm.TINY, tie_word_embeddings=False)
    return causal_lm.tiny(tmp_path_factory.mktemp("untied") / "lm", config)


@pytest.fixture(params=["tied", "untied"])
def base(request: pytest.FixtureRequest, tiny_lm: Path, untied_lm: Path) -> Path:
    return {"tied": tiny_lm, "untied": untied_lm}[request.param]


def loaded(base: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()


def trainee_of(of: plan.Plan, base: Path) -> step.Trainee:
    """The base with all that is trained on it, before the first step."""
    return running.adapt(causal_lm, {"model": loaded(base)}, of.program)  # type: ignore[arg-type]


def test_they_are_trained_resumed_and_what_plain_peft_computes(
    base: Path, tiny_text: Path, tmp_path: Path, cache: Path
) -> None:
    of = texts.planned(base, tiny_text, tmp_path, also_train=BOTH)
    made = texts.carry_out(of, texts.where(of, tmp_path / "through", cache))

    def stop(at: int) -> None:
        if at == 3:
            signal.raise_signal(signal.SIGINT)

    again = texts.where(of, tmp_path / "stopped", cache)
    with pytest.raises(Interrupted):
        texts.carry_out(of, again, stop)
    assert texts.carry_out(of, again).read_bytes() == made.read_bytes()

    with open_weights(made) as file:
        embeddings = file.load("base_model.model.model.embed_tokens.weight")
        head = file.load("base_model.model.lm_head.weight")
    plain = loaded(base)
    said = causal_lm.byte_tokenizer()("Say")["input_ids"]  # in every sample
    assert (embeddings - plain.model.embed_tokens.weight)[said].abs().min() > 0
    assert (head - plain.lm_head.weight)[said].abs().min() > 0
    assert torch.equal(embeddings, head) == plain.config.tie_word_embeddings

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*weight_tying")  # peft's, of ties that it cannot keep
        theirs = PeftModel.from_pretrained(loaded(base), made.parent).eval()
    pair = chat.load(of, made.parent, base)
    with torch.no_grad():
        trained = pair.modules["model"](TOKENS).logits
        step.weigh(pair.modules, of.program.adapter, pair.whole, 0.0)
        as_base = pair.modules["model"](TOKENS).logits
        wanted, before = theirs(TOKENS).logits, plain(TOKENS).logits
    assert torch.allclose(trained, wanted, atol=1e-5)
    assert (trained - before).abs().max() > 1e-2
    assert torch.equal(as_base, before)
    with open_weights(made) as file:
        assert set(get_peft_model_state_dict(theirs)) == set(file)


BESIDE: dict[str, Any] = {
    "DoRA": LoRA(rank=2, dora=True, also_train=BOTH),
    "LoHa": LoHa(rank=2, also_train=BOTH),
    "LoKr": LoKr(rank=2, also_train=BOTH),
    "VeRA": VeRA(rank=8, also_train=BOTH),
    "IA3": IA3(also_train=BOTH),
}


@pytest.mark.parametrize(
    ("name", "base"), [("LoHa", "tied"), *((name, "untied") for name in BESIDE)], indirect=["base"]
)
def test_beside_every_method_plain_peft_computes_what_was_trained(
    name: str, base: Path, tiny_text: Path, tmp_path: Path, cache: Path
) -> None:
    wanted = attrs.evolve(texts.experiment(base, tiny_text, steps=2, warmup_steps=0), adapter=BESIDE[name])
    of = compile_experiment(wanted, tmp_path, tmp_path)
    made = texts.carry_out(of, texts.where(of, tmp_path, cache))

    with warnings.catch_warnings():
        warnings.filterwarnings(
            "error", message="Unexpected keyword"
        )  # peft's, of what a method's config has not
        theirs = PeftModel.from_pretrained(loaded(base), made.parent).eval()
    pair = chat.load(of, made.parent, base)
    with torch.no_grad():
        trained = pair.modules["model"](TOKENS).logits
        assert torch.allclose(trained, theirs(TOKENS).logits, atol=1e-5)
    plain, said = loaded(base), causal_lm.byte_tokenizer()("Say")["input_ids"]
    with open_weights(made) as file:
        for key in ("model.embed_tokens.weight", "lm_head.weight"):
            moved = file.load(f"base_model.model.{key}") - plain.get_parameter(key)
            assert moved[said].abs().min() > 0
        assert set(get_peft_model_state_dict(theirs)) >= set(file)


def test_their_gradients_through_the_chunked_loss_are_those_of_the_models_logits(
    base: Path, tiny_text: Path, tmp_path: Path
) -> None:
    made = trainee_of(texts.planned(base, tiny_text, tmp_path, also_train=BOTH), base)
    batch = causal_lm.example(made.program.base.architecture, 2, (16,), False)
    batch["input_ids"] = torch.arange(32).reshape(2, 16)
    batch["places"] = torch.cat([torch.arange(15), torch.arange(15) + 16])
    batch["tokens"] = batch["input_ids"].flatten()[batch["places"] + 1]
    batch["rows"] = torch.arange(2).repeat_interleave(15)
    learned = [one.weight for one in made.whole.values()]
    model = made.modules["model"]

    ours = causal_lm.loss(made.modules, batch, made.program.base, made.program.train.objective).sum()
    logits = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
    theirs = F.cross_entropy(logits.flatten(0, 1)[batch["places"]], batch["tokens"], reduction="sum")

    assert len(learned) == (1 if model.config.tie_word_embeddings else 2)
    torch.testing.assert_close(
        torch.autograd.grad(ours, learned), torch.autograd.grad(theirs, learned), rtol=1e-4, atol=1e-5
    )


def test_masters_are_in_float32_whatever_the_base_computes_in(
    base: Path, tiny_text: Path, tmp_path: Path
) -> None:
    of = texts.planned(base, tiny_text, tmp_path, also_train=("embeddings",), dtype="bf16")
    made = running.adapt(causal_lm, {"model": loaded(base).bfloat16()}, of.program)  # type: ignore[arg-type]
    name = "model.model.embed_tokens.weight"
    assert (made.weights[name].dtype, made.masters[name].dtype) == (torch.bfloat16, torch.float32)
    assert ("model.lm_head.weight" in made.weights) is False


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_planner_counts_them(base: Path, tiny_text: Path, tmp_path: Path, dtype: str) -> None:
    of = texts.planned(base, tiny_text, tmp_path, also_train=BOTH, dtype=dtype, micro_batch=2, accumulation=2)

    def make() -> Callable[[], None]:
        model = loaded(base).to(getattr(torch, {"fp32": "float32", "bf16": "bfloat16"}[dtype]))
        made = running.adapt(causal_lm, {"model": model}, of.program)  # type: ignore[arg-type]
        batch = causal_lm.example(of.program.base.architecture, 2, (texts.LENGTH,), False)

        def train() -> None:
            step.gradients(made, [(batch, range(2))] * 2, 4)
            step.update(made, 1.0)

        return train

    predicted = phases.training(of.program, (8, 0)).peak.bytes
    assert predicted == pytest.approx(measure(make, steps=2).phases["step"].bytes, rel=0.005)


def test_the_base_can_be_asked_while_they_are_trained() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    both = Whole(weight)
    with torch.no_grad():
        weight.add_(1)
    for acts, values in ((1.0, [2, 2]), (0.0, [1, 1]), (0.0, [1, 1]), (1.0, [2, 2]), (1.0, [2, 2])):
        both.weigh(acts)
        assert weight.tolist() == values


def test_a_head_that_the_base_ties_is_not_trained_alone(
    tiny_lm: Path, tiny_text: Path, tmp_path: Path
) -> None:
    with pytest.raises(SpecError) as raised:
        texts.planned(tiny_lm, tiny_text, tmp_path, also_train=("lm_head",))
    (said,) = raised.value.problems
    assert said.what == "asks for lm_head alone, which this base ties to its embeddings: they are one weight"
    assert said.hint == 'also_train=("embeddings",) trains it'


def test_the_manifest_says_who_refuses_them(
    tiny_lm: Path, tiny_text: Path, tmp_path: Path, cache: Path
) -> None:
    of = texts.planned(tiny_lm, tiny_text, tmp_path, also_train=("embeddings",))
    made = texts.carry_out(of, texts.where(of, tmp_path, cache))
    manifest = json.loads((made.parent / "tiny.lorac.json").read_text())
    assert {one["consumer"]: one["loads"] for one in manifest["consumers"]} == {
        "PEFT": "loads",
        "vLLM": "refuses",
        "llama.cpp": "refuses",
    }
    assert manifest["made"]["modules"] == {"model": 14}
