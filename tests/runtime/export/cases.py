"""What the exporter's tests export: a plan, random weights over SD 1.x's modules, a run's facts, a
picture."""

from __future__ import annotations

import re
from typing import Any

import attrs
import torch
from PIL import Image
from torch import Tensor, nn

from runtime import plan
from runtime.export.manifest import Facts
from runtime.families import sd1

Trained = dict[str, dict[str, dict[str, Tensor]]]

USUAL = {
    "unet": r".*\.attentions\.\d+\.(proj_in|proj_out|transformer_blocks\..*)",
    "text_encoder": r".*encoder\.layers\..*",
}
"""What kohya's trainer adapts in SD 1.x when it is asked for attention only."""

WITH_CONVOLUTIONS = {**USUAL, "unet": r"(down|up|mid)_blocks?\..*"}


def small() -> dict[str, Any]:
    """SD 1.x's topology with narrow layers and two layers in the text encoder: the names are the real
    ones."""
    config = sd1.published()
    config["unet"] |= {"block_out_channels": [32, 32, 64, 64], "cross_attention_dim": 64, "sample_size": 8}
    config["text_encoder"] |= {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    config["text_encoder"] |= {"num_attention_heads": 1, "vocab_size": 1024}
    config["text_encoder"] |= {"bos_token_id": 1022, "eos_token_id": 1023}
    return config


def adapted(
    architecture: dict[str, Any], targets: dict[str, str], of: Any = sd1
) -> dict[str, dict[str, tuple[int, ...]]]:
    """Component -> module path -> shape of its weight, for the linear layers and convolutions that match."""
    found = {}
    for component, pattern in targets.items():
        with torch.device("meta"):
            module = of.build(architecture, component)
        found[component] = {
            name: tuple(layer.weight.shape)
            for name, layer in module.named_modules()
            if isinstance(layer, nn.Linear | nn.Conv2d) and re.fullmatch(pattern, name)
        }
    return found


def weights(
    architecture: dict[str, Any],
    targets: dict[str, str] = USUAL,
    rank: int = 4,
    size: float = 0.1,
    of: Any = sd1,
) -> Trained:
    """Random A and B for every adapted module."""
    generator = torch.Generator().manual_seed(7)
    made: Trained = {}
    for component, modules in adapted(architecture, targets, of).items():
        made[component] = {}
        for name, (out, *inner) in modules.items():
            a = torch.randn((rank, *inner), generator=generator) * size
            b = torch.randn((out, rank, *([1] * (len(inner) - 1))), generator=generator) * size
            made[component][name] = {"A": a, "B": b}
    return made


def changes(trained: Trained, adapter: plan.Adapter) -> dict[tuple[str, str], Tensor]:
    """(component, module) -> what is added to the module's weight, as (out, everything else)."""
    scale = adapter.alpha / adapter.rank
    return {
        (component, module): scale * parts["B"].flatten(1) @ parts["A"].flatten(1)
        for component, modules in trained.items()
        for module, parts in modules.items()
    }


ITEMS = (
    ("10_cat/a.png", "catstyle, a red cat, night", 10, (512, 512), (600, 610)),
    ("10_cat/b.png", "catstyle, a blue cat", 10, (512, 512), (512, 512)),
    ("c.png", "catstyle, a dog, night", 1, (640, 448), (1000, 700)),
)


def items(rows: Any = ITEMS) -> tuple[plan.Item, ...]:
    """Locked pictures from (path, caption, repeats, bucket, size)."""
    return tuple(
        plan.Item(
            path=path,
            sha256="0" * 64,
            width=size[0],
            height=size[1],
            caption=caption,
            repeats=repeats,
            bucket=bucket,
        )
        for path, caption, repeats, bucket, size in rows
    )


def a_plan(trained: Trained, **changed: Any) -> plan.Plan:
    """A plan that trains these weights. `changed`: fields of Outputs, or `adapter_FIELD`, `items`,
    `versions`."""
    rank = next(iter(next(iter(trained.values())).values()))["A"].shape[0]
    adapter = plan.Adapter(
        method="lora",
        rank=rank,
        alpha=changed.pop("adapter_alpha", 2.0 * rank),
        dropout=0.0,
        init="kaiming",
        targets=dict.fromkeys(trained, ".*"),
        modules={component: len(modules) for component, modules in trained.items()},
    )
    program = plan.Program(
        locked=True,
        base=plan.Base(
            family="sd1",
            layout="diffusers",
            digest="b" * 64,
            prediction_type="epsilon",
            architecture={},
        ),
        data=plan.Images(
            digest="d" * 64,
            items=changed.pop("items", items()),
            expected=21,
            resolution=512,
            flip=True,
            caption_dropout=0.1,
        ),
        adapter=adapter,
        train=plan.Train(
            steps=100,
            effective_batch=4,
            micro_batch=2,
            accumulation=2,
            processes=1,
            learning_rate=1e-4,
            text_encoder_learning_rate=5e-5,
            schedule=plan.Schedule(name="cosine", warmup_steps=10, power=1.0),
            optimizer=plan.AdamW(beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01),
            objective=plan.Objective(snr_gamma=5.0, noise_offset=0.0),
            max_grad_norm=1.0,
            seed=3,
        ),
        compute=plan.Compute(device="cpu", threads=2, dtype="fp32", checkpointed=()),
        versions=changed.pop("versions", {"lorac": "0.1.0"}),
    )
    outputs = plan.Outputs(
        name="cyberpunk",
        places=plan.Places(
            base="/home/jane/base", data="/home/jane/data", output="/home/jane/out", log="log"
        ),
        samples=plan.Samples(
            prompts=("a cat",),
            negative_prompt="",
            seed=0,
            steps=1,
            guidance=1.0,
            width=64,
            height=64,
            weight=1.0,
            every=0,
        ),
        base_name="small-sd",
        save_steps=0,
        keep_checkpoints=1,
        dtype="fp16",
        trigger="catstyle",
        preferred_weight=0.8,
        description="Neon — cats.",
        author="Jane",
        license="CC-BY-4.0",
        notes="Two lines\nof notes",
        negative_text="blurry",
        tags=("cat", "neon"),
    )
    estimate = plan.Estimate(
        card="", card_bytes=0, usable_bytes=0, peak_bytes=0, by_kind={}, phases={}, fallback_bytes=(), host_bytes=0,
        disk_bytes=0, seconds_per_step=0.0, seconds=0.0, decisions=(), rejected=(),
    )  # fmt: skip
    return plan.make(program, attrs.evolve(outputs, **changed), estimate)


def facts(**changed: Any) -> Facts:
    """What a run of 100 steps knows."""
    known = Facts(
        steps=100,
        loss=0.125,
        started_at="2026-01-02T03:04:05Z",
        finished_at="2026-01-02T03:14:05Z",
        seconds=600.0,
        device="cpu",
        peak_bytes=1 << 30,
        micro_batch=2,
        metrics={"style": 0.5},
    )
    return attrs.evolve(known, **changed)


def picture(width: int = 640, height: int = 320) -> Image.Image:
    """A picture that carries what a LoRA's files must not: text and a date."""
    image = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    image.info = {"parameters": "secret prompt", "Software": "me"}
    return image


def pair() -> dict[str, Tensor]:
    """A (4, 8) and B (8, 4) of numbers that sixteen bits hold exactly, no product of which cancels."""
    return {"A": torch.arange(1.0, 33.0).reshape(4, 8) / 32, "B": torch.full((8, 4), 0.125)}
