"""Language models of many architectures by one file: each trains, and its memory is the predicted one."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoConfig

from lorac import Text
from lorac.estimate import cards, phases
from lorac.estimate.cost import Costs
from lorac.estimate.record import Trace
from lorac.estimate.trace import measure
from runtime import media, plan
from runtime import run as running
from runtime import step as train_step
from runtime.errors import InputError, SpecError
from runtime.families import causal_lm
from runtime.preflight import Where
from runtime.safeio.weights import open_weights
from tests import texts

HEADS = {**causal_lm.TINY, "head_dim": 8}
"""The tiny Llama's numbers, for architectures that do not divide the width by the heads."""

ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
FEED_FORWARD = {"gate_proj", "up_proj", "down_proj"}
FUSED = {"gate_up_proj", "down_proj"}

ARCHITECTURES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "llama": (causal_lm.TINY, ATTENTION | FEED_FORWARD),
    "mistral": (causal_lm.TINY, ATTENTION | FEED_FORWARD),
    "qwen2": (causal_lm.TINY, ATTENTION | FEED_FORWARD),
    "qwen3": (HEADS, ATTENTION | FEED_FORWARD),
    "gemma2": ({**HEADS, "query_pre_attn_scalar": 8}, ATTENTION | FEED_FORWARD),
    "phi3": (causal_lm.TINY, {"qkv_proj", "o_proj"} | FUSED),
    "glm": (HEADS, ATTENTION | FUSED),
    "cohere": (causal_lm.TINY, ATTENTION | FEED_FORWARD),
    "qwen3_moe": (
        {**HEADS, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
        ATTENTION,
    ),
    "qwen2_moe": (
        {
            **causal_lm.TINY,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 32,
        },
        ATTENTION | FEED_FORWARD,
    ),
    "gpt2": (
        {
            **{name: causal_lm.TINY[name] for name in ("vocab_size", "bos_token_id", "eos_token_id")},
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 512,
        },
        {"c_attn", "c_proj", "c_fc"},
    ),
}
"""Each with its tiny config and the last names of the layers that are to be adapted."""

NEVER = re.compile(r".*(router|_gate|\.gate|lm_head|embed|experts\.)")

CLOSE = 0.005
"""How near a predicted peak is to the measured one."""


@attrs.frozen(kw_only=True)
class Case:
    """An architecture's tiny base, its plan, and where it runs."""

    base: Path
    adapted: set[str]
    plan: plan.Plan
    where: Where


@pytest.fixture(scope="session")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen texts of 64 tokens each, so that two of them fill a sequence."""
    rows = [
        {"text": (f"{at:02} is a number, and so is {at + 1}. " * 4)[: texts.LENGTH // 2 - 1]}
        for at in range(16)
    ]
    return texts.write(tmp_path_factory.mktemp("halves") / "halves.jsonl", rows)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def case(
    request: pytest.FixtureRequest, halves: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Case:
    config, adapted = ARCHITECTURES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    base = causal_lm.tiny(folder / "base", AutoConfig.for_model(request.param, **config))
    work = folder / "work"
    of = texts.planned(
        base,
        (Text(str(halves)),),
        work,
        steps=3,
        save_steps=0,
        micro_batch=2,
        accumulation=2,
    )
    return Case(base=base, adapted=adapted, plan=of, where=texts.where(of, work, cache))


@pytest.mark.family("train 3 steps", row="causal_lm")
def test_three_steps_train_the_intended_layers_and_no_others(case: Case) -> None:
    made = texts.carry_out(case.plan, case.where)
    with open_weights(made) as file:
        tensors = {name: file.load(name) for name in file}
    modules = {name.removeprefix("base_model.model.").rpartition(".lora_")[0] for name in tensors}

    assert {module.rpartition(".")[2] for module in modules} == case.adapted
    assert not any(NEVER.fullmatch(module) for module in modules)
    assert len(modules) == case.plan.program.adapter.modules["model"]
    for name, tensor in tensors.items():
        assert tensor.isfinite().all(), name
        assert tensor.abs().max() > 0, name
    manifest = case.where.output / "checkpoints" / "step-000003" / "DONE.json"
    assert manifest.is_file()


def test_the_loss_is_that_of_the_models_own_logits(case: Case) -> None:
    """What bends logits (Cohere's scale, Gemma 2's cap) is in the chunked loss too."""
    feed, modules = _prepared(case)
    (group, *_) = feed.cut(feed.step(0), 1)
    batch = feed.batch(group)
    given = {name: batch[name] for name in ("input_ids", "position_ids")}
    with torch.no_grad():
        logits = modules["model"](**given, use_cache=False).logits.flatten(0, 1)
        ours = causal_lm.loss(modules, batch, case.plan.program.base, case.plan.program.train.objective)
    wanted = F.cross_entropy(logits[batch["places"]], batch["tokens"], reduction="sum")

    torch.testing.assert_close(ours.sum(), wanted, atol=1e-3, rtol=1e-5)


def test_packed_samples_do_not_see_each_other(case: Case) -> None:
    """The loss of a step's samples packed is the sum of their losses alone."""
    feed, modules = _prepared(case)
    alone, _ = _prepared(case, packing=False)
    rows = feed.step(0)
    numbers = [number for row in rows for number in row.samples]
    single = [row for step in range(4) for row in alone.step(step) if row.samples[0] in numbers]

    assert len(numbers) == 2 * len(rows)
    assert sorted(row.samples[0] for row in single) == sorted(numbers)
    together = _losses(case, modules, feed, feed.cut(rows, 4))
    apart = _losses(case, modules, alone, alone.cut(single, 1))
    assert together.shape[0] * 2 == apart.shape[0]
    torch.testing.assert_close(together.sum(), apart.sum(), atol=1e-3, rtol=1e-5)
    assert feed.weigh(rows) == alone.weigh(single)


def test_the_predicted_peak_is_that_of_the_real_step(case: Case) -> None:
    predicted = phases.training(case.plan.program, (8, 0)).peak.bytes
    measured = _measured(case).phases["step"].bytes

    assert predicted == pytest.approx(measured, rel=CLOSE)


def test_the_planner_knows_what_each_block_saves_and_weighs_and_how_long_it_takes(
    case: Case, cache: Path
) -> None:
    blocks = Costs(cards.find("cpu"), cache).exact(case.plan.program).blocks

    assert blocks
    assert all(block.saved > 0 and block.weights > 0 and block.seconds > 0 for block in blocks)


def test_weights_that_no_module_is_called_for_are_weights_all_the_same(case: Case) -> None:
    kinds = phases.training(case.plan.program, (8, 0)).peak.by_kind()
    batch = causal_lm.example(
        case.plan.program.base.architecture, case.plan.program.train.micro_batch, (texts.LENGTH,), False
    )

    assert kinds.get("inputs", 0) <= 2 * sum(tensor.nbytes for tensor in batch.values())


def _prepared(case: Case, **changes: Any) -> tuple[Any, Any]:
    """The feed and the modules, without an adapter."""
    program = attrs.evolve(case.plan.program, data=attrs.evolve(case.plan.program.data, **changes))
    device = torch.device("cpu")
    modules, tokenizers = running.load(causal_lm, program, case.where, device)  # type: ignore[arg-type]
    medium = media.medium(program.data)
    return medium.prepare(causal_lm, modules, tokenizers, program, case.where, device), modules


def _losses(case: Case, modules: Any, feed: Any, groups: list[Any]) -> torch.Tensor:
    program = case.plan.program
    with torch.no_grad():
        return torch.cat(
            [
                causal_lm.loss(modules, feed.batch(group), program.base, program.train.objective)
                for group in groups
            ]
        )


def _measured(case: Case) -> Trace:
    """Two optimizer steps on real tensors, each of two micro-batches of the plan's own samples."""
    program = case.plan.program

    def make() -> Callable[[], None]:
        feed, modules = _prepared(case)
        trainee = running.adapt(causal_lm, modules, program)  # type: ignore[arg-type]
        samples = feed.step(0)
        groups = feed.cut(samples, program.train.micro_batch)

        def step() -> None:
            batches = ((feed.batch(group), [sample.key for sample in group]) for group in groups)
            train_step.gradients(trainee, batches, feed.weigh(samples))
            train_step.update(trainee, 1.0)

        return step

    return measure(make, steps=2)


def test_a_head_that_bends_logits_by_a_name_unknown_to_us_is_refused_at_load(case: Case) -> None:
    program = case.plan.program
    modules, tokenizers = running.load(causal_lm, program, case.where, torch.device("cpu"))  # type: ignore[arg-type]
    modules["model"].get_output_embeddings().register_forward_hook(
        lambda module, inputs, logits: 100 * logits
    )

    with pytest.raises(InputError) as raised:
        media.medium(program.data).prepare(
            causal_lm, modules, tokenizers, program, case.where, torch.device("cpu")
        )
    (said,) = raised.value.problems
    assert said.where == str(case.where.base)
    assert said.what.startswith("its logits give a loss of ")
    assert modules["model"].config.model_type in said.hint


def test_a_pattern_that_reaches_the_head_is_refused_with_what_to_do_instead(case: Case) -> None:
    architecture = case.plan.program.base.architecture
    assert causal_lm.targets(architecture, "re:.*_proj", False) == {"model": ".*_proj"}
    with pytest.raises(SpecError) as raised:
        causal_lm.targets(architecture, "re:.*(_proj|head)", False)
    (said,) = raised.value.problems
    assert said.where == "adapter.targets"
    assert 'LoRA(also_train=("lm_head",))' in said.hint
