"""A plan made by hand, for what reads plans. Imports no torch."""

from __future__ import annotations

from typing import Any

import attrs

from runtime import plan

MIB = 2**20

PROGRAM = plan.Program(
    locked=True,
    base=plan.Base(
        family="sd1", layout="diffusers", digest="b" * 64, prediction_type="epsilon", architecture={}
    ),
    data=plan.Images(
        digest="d" * 64,
        items=(
            plan.Item(
                path="a.png",
                sha256="0" * 64,
                width=512,
                height=512,
                caption="a cat",
                repeats=10,
                bucket=(512, 512),
            ),
        ),
        expected=10,
        resolution=512,
        flip=False,
        caption_dropout=0.0,
    ),
    adapter=plan.Adapter(
        method="lora",
        rank=16,
        alpha=16.0,
        dropout=0.0,
        init="kaiming",
        targets={"unet": ".*"},
        modules={"unet": 96},
    ),
    train=plan.Train(
        steps=1200,
        effective_batch=4,
        micro_batch=2,
        accumulation=2,
        processes=1,
        learning_rate=1e-4,
        text_encoder_learning_rate=1e-4,
        schedule=plan.Schedule(name="cosine", warmup_steps=0, power=1.0),
        optimizer=plan.AdamW(beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01),
        objective=plan.Objective(snr_gamma=0.0, noise_offset=0.0),
        max_grad_norm=1.0,
        seed=0,
    ),
    compute=plan.Compute(device="cuda", threads=0, dtype="bf16", checkpointed=()),
    versions={"torch": "2.14.1"},
)

OUTPUTS = plan.Outputs(
    name="cats",
    places=plan.Places(
        base="models/sd.safetensors", data="data", output="output/cats", log="output/cats/logs"
    ),
    samples=plan.Samples(
        prompts=(),
        negative_prompt="",
        seed=0,
        steps=20,
        guidance=7.5,
        width=512,
        height=512,
        weight=1.0,
        every=0,
    ),
    base_name="sd",
    save_steps=0,
    keep_checkpoints=2,
    dtype="fp16",
    trigger="",
    preferred_weight=0.8,
    description="",
    author="",
    license="",
    notes="",
    negative_text="",
    tags=(),
)

ESTIMATE = plan.Estimate(
    card="12GB",
    card_bytes=12 * 1024 * MIB,
    usable_bytes=11 * 1024 * MIB,
    peak_bytes=8 * 1024 * MIB,
    by_kind={
        "base weights": 2048 * MIB,
        "saved activations": 5120 * MIB,
        "gradients": 3 * MIB,
        "temporaries": 1021 * MIB,
    },
    phases={"caching": 3072 * MIB, "training": 8192 * MIB},
    fallback_bytes=(),
    host_bytes=3 * 1024 * MIB,
    disk_bytes=64 * MIB,
    seconds_per_step=0.75,
    seconds=900.0,
    decisions=(
        plan.Decision(field="base", value="Stable Diffusion 1.x", reason="from its tensors; epsilon"),
        plan.Decision(field="rank", value="16", reason="preferred, and it fits"),
        plan.Decision(
            field="micro-batch × accumulation",
            value="2 × 2 = 4",
            reason="fastest that fits: 15m00s in all, 8.00 GiB of 11.00 GiB usable",
        ),
    ),
    rejected=(
        plan.Rejected(
            point="rank 16, micro-batch 4 × 1",
            peak_bytes=13312 * MIB,
            seconds_per_step=0.5,
            reason="is predicted not to fit: 2.00 GiB over",
        ),
    ),
)


def a_plan(**parts: Any) -> plan.Plan:
    """The plan above; `parts` replace `program`, `outputs` or `estimate`."""
    return plan.make(
        parts.get("program", PROGRAM), parts.get("outputs", OUTPUTS), parts.get("estimate", ESTIMATE)
    )


def unlocked() -> plan.Plan:
    """The same plan made without its data."""
    return a_plan(program=attrs.evolve(PROGRAM, locked=False))
