"""Plans over the tiny base and data, small enough to be carried out in a test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from lorac import Images
from lorac.data_lock import lock_images
from runtime import plan, preflight
from runtime.families import family, inspect
from runtime.preflight import Where, public_version
from runtime.safeio import digest


def tiny_plan(base: Path, data: Path, **changes: Any) -> plan.Plan:
    """Six pictures of 64 px, effective batch 4, three epochs of two steps (the second one short).

    `changes` are fields of Train, Adapter, Compute, Evaluation, Outputs or Images, by their own names.
    """
    locked_base = inspect.inspect(base, digest.sha256_file).base
    of = family(locked_base.family)
    images = Images(str(data), resolution=64, buckets=False, held_out=changes.pop("held_out", 0.0))
    locked_data = lock_images(images, data, of.GRID)
    targets = of.targets(
        locked_base.architecture, changes.pop("targets", "qkv"), changes.pop("text_encoder", False)
    )
    modules = {"unet": 96, "text_encoder": 6}
    program = plan.Program(
        locked=True,
        base=locked_base,
        data=locked_data,
        adapter=plan.Adapter(
            method="lora",
            rank=2,
            alpha=2.0,
            dropout=0.0,
            init="kaiming",
            targets=targets,
            modules={name: modules.get(name, 0) for name in targets},
        ),
        train=plan.Train(
            steps=6,
            effective_batch=4,
            micro_batch=4,
            accumulation=1,
            processes=1,
            learning_rate=1e-2,
            text_encoder_learning_rate=1e-3,
            schedule=plan.Schedule(name="cosine", warmup_steps=2, power=1.0),
            optimizer=plan.AdamW(beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.01),
            objective=plan.Objective(snr_gamma=5.0, noise_offset=0.0),
            max_grad_norm=1.0,
            seed=1,
        ),
        compute=plan.Compute(device="cpu", threads=1, dtype="fp32", checkpointed=()),
        versions={name: public_version(name) for name in ("torch", "diffusers", "transformers", "peft")},
    )
    outputs = plan.Outputs(
        name="tiny",
        places=plan.Places(base=str(base), data=str(data), output="output/tiny", log="output/tiny/logs"),
        samples=plan.Samples(
            prompts=(),
            negative_prompt="",
            seed=1,
            steps=2,
            guidance=4.0,
            width=64,
            height=64,
            weight=1.0,
            every=0,
        ),
        base_name="tiny",
        save_steps=2,
        keep_checkpoints=2,
        dtype="fp32",
        trigger="tiny style",
        preferred_weight=0.8,
        description="",
        author="",
        license="",
        notes="",
        negative_text="",
        tags=(),
    )
    parts: dict[str, Any] = {
        "train": program.train,
        "adapter": program.adapter,
        "compute": program.compute,
        "data": program.data,
        "evaluation": program.evaluation,
    }
    for field, value in changes.items():
        for name, part in parts.items():
            if field in {a.name for a in attrs.fields(type(part))}:
                parts[name] = attrs.evolve(part, **{field: value})
                break
        else:
            outputs = attrs.evolve(outputs, **{field: value})
    return plan.make(attrs.evolve(program, **parts), outputs, estimate())


def estimate() -> plan.Estimate:
    """An estimate that says nothing."""
    return plan.Estimate(
        card="cpu",
        card_bytes=2**34,
        usable_bytes=2**34,
        peak_bytes=2**30,
        by_kind={},
        phases={},
        fallback_bytes=(),
        host_bytes=2**29,
        disk_bytes=0,
        seconds_per_step=1.0,
        seconds=6.0,
        decisions=(),
        rejected=(),
    )


def where(of: plan.Plan, folder: Path) -> Where:
    """Places for a run in `folder`; the cache is shared by runs of the same folder's parent."""
    return Where(
        base=Path(of.outputs.places.base),
        data=Path(of.outputs.places.data),
        output=folder / "tiny",
        log=folder / "tiny" / "logs",
        cache=folder.parent / "cache",
    )


def carry_out(of: plan.Plan, folder: Path, fault: Callable[[int], None] = lambda step: None) -> Path:
    """Check a plan and run it in this process, as `python -m runtime` does. The WebUI's file."""
    from runtime.run import Options, run

    places = where(of, folder)
    preflight.check(of, places)
    return run(of, Options(where=places, fault=fault)) / "tiny.safetensors"
