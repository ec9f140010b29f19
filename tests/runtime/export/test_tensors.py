"""Keys, shapes and strength of the two files, module by module."""

from __future__ import annotations

import attrs
import pytest
import torch
from torch import Tensor

from runtime import plan as plans
from runtime.export import diffusers, kohya
from runtime.export.weights import check
from runtime.families import sd1
from runtime.plan import Plan
from tests.runtime.export import cases

LINEAR = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
KERNEL = "down_blocks.0.attentions.0.proj_in"
TEXT = "encoder.layers.1.self_attn.q_proj"


def both(trained: cases.Trained, adapter: plans.Adapter, dtype: plans.Dtype) -> tuple[dict[str, Tensor], ...]:
    return tuple(kind.tensors(sd1, trained, adapter, dtype) for kind in (kohya, diffusers))  # type: ignore[arg-type]


def test_kohya_s_keys_and_shapes(trained: cases.Trained, plan: Plan) -> None:
    found, _ = both(trained, plan.program.adapter, "fp16")
    prefix = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    kernel = "lora_unet_down_blocks_0_attentions_0_proj_in"

    assert {key: tuple(found[key].shape) for key in found if key.startswith((prefix, kernel))} == {
        f"{prefix}.lora_down.weight": (4, 32),
        f"{prefix}.lora_up.weight": (32, 4),
        f"{prefix}.alpha": (),
        f"{kernel}.lora_down.weight": (4, 32, 1, 1),
        f"{kernel}.lora_up.weight": (32, 4, 1, 1),
        f"{kernel}.alpha": (),
    }
    assert len(found) == 3 * 204
    assert {value.item() for key, value in found.items() if key.endswith(".alpha")} == {8.0}


def test_diffusers_keys_keep_the_text_model_level(trained: cases.Trained, plan: Plan) -> None:
    _, found = both(trained, plan.program.adapter, "fp32")

    assert f"unet.{LINEAR}.lora_A.weight" in found
    assert f"text_encoder.text_model.{TEXT}.lora_B.weight" in found
    assert len(found) == 2 * 204
    assert not [key for key in found if "alpha" in key]


def test_a_text_encoder_that_has_the_level_gets_it_once(plan: Plan) -> None:
    trained = {"text_encoder": {f"text_model.{TEXT}": cases.pair()}}

    found = both(trained, plan.program.adapter, "fp32")[1]

    assert found.keys() == {f"text_encoder.text_model.{TEXT}.lora_{part}.weight" for part in "AB"}


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("alpha", [0.1, 1.0, 11.3, 16.0, 60000.0])
@pytest.mark.parametrize("rslora", [False, True])
def test_the_strength_in_both_files_is_the_trained_one(
    dtype: plans.Dtype, alpha: float, rslora: bool
) -> None:
    """Though bfloat16 holds 11.3 as 11.3125 only, and readers divide by the rank where rsLoRA does not."""
    planned = cases.a_plan({"unet": {LINEAR: cases.pair()}}).program.adapter
    adapter = attrs.evolve(planned, alpha=alpha, rslora=rslora)
    a, b = cases.pair().values()
    expected = alpha / (adapter.rank**0.5 if rslora else adapter.rank) * b @ a
    webui, plain = both({"unet": {LINEAR: {"A": a, "B": b}}}, adapter, dtype)
    prefix = sd1.export_name("unet", LINEAR)
    down, up = (webui[f"{prefix}.lora_{part}.weight"].float() for part in ("down", "up"))
    of_webui = webui[f"{prefix}.alpha"].item() / len(down) * up @ down
    of_diffusers = (
        plain[f"unet.{LINEAR}.lora_B.weight"].float() @ plain[f"unet.{LINEAR}.lora_A.weight"].float()
    )

    # Exact numbers in A and in B's powers of two leave the rounding of B's product alone.
    step = {"fp32": 2**-23, "bf16": 2**-8, "fp16": 2**-11}[dtype]
    for found in (of_webui, of_diffusers):
        assert torch.allclose(found, expected, rtol=2 * step, atol=0)


def test_two_modules_of_one_name_are_a_bug(plan: Plan) -> None:
    trained = {"unet": {"a.b": cases.pair(), "a_b": cases.pair()}}

    with pytest.raises(ValueError, match="two modules are exported as lora_unet_a_b"):
        kohya.tensors(sd1, trained, plan.program.adapter, "fp32")  # type: ignore[arg-type]


def test_every_fault_of_the_weights_is_named(plan: Plan) -> None:
    a, b = cases.pair().values()
    wrong = {"unet": {"x": {"A": a[:3], "B": b}}, "text_encoder": {"y": {"A": a, "B": b}}}
    adapter = attrs.evolve(plan.program.adapter, alpha=0.0, modules={"unet": 1, "text_encoder": 2})

    with pytest.raises(ValueError) as caught:
        check(wrong, adapter)
    assert str(caught.value) == (
        "alpha is 0.0, and readers take 0 as alpha = rank; "
        "unet.x has A (3, 8) and B (8, 4), not of rank 4; "
        "text_encoder has 1 modules, planned are 2"
    )
