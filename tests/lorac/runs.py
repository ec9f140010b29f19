"""Runs made by hand: a folder as a finished run leaves it, without training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from lorac.generate import Written
from lorac.sweep import Job
from runtime import plan
from runtime.export.manifest import FORMAT, SUFFIX, Again, Facts, Hashes, Made, Manifest, Usage
from runtime.safeio import atomic, strict_json
from tests.lorac.plans import ESTIMATE, OUTPUTS, PROGRAM


def made_plan(folder: Path, name: str = "cat", **train: Any) -> plan.Plan:
    """A plan whose run is folder/NAME; `train` are fields of Train."""
    program = attrs.evolve(PROGRAM, train=attrs.evolve(PROGRAM.train, **{"steps": 40, **train}))
    places = attrs.evolve(OUTPUTS.places, output=str(folder / name), log=str(folder / name / "logs"))
    return plan.make(program, attrs.evolve(OUTPUTS, name=name, places=places), ESTIMATE)


def job(folder: Path, name: str, **train: Any) -> Job:
    """A job whose plan is not on disk."""
    of = made_plan(folder, name, **train)
    return Job(Written(plan=of, path=folder / "generated" / name / "plan.json"), {})


def write_run(
    of: plan.Plan,
    losses: Sequence[float],
    *,
    grad_norms: Sequence[float] = (),
    held_out: Sequence[tuple[int, float, float, float]] = (),
    is_done: bool = True,
) -> Path:
    """The run's folder: plan, metrics with a line a step, held-out losses as (step, loss, low, high), manifest."""
    folder = Path(of.outputs.places.output)
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    plan.write(of, folder / "plan.json")
    norms = grad_norms or [0.1] * len(losses)
    lines: list[dict[str, float]] = [
        {"step": step, "loss": loss, "grad_norm": norm, "seconds": 1.0}
        for step, (loss, norm) in enumerate(zip(losses, norms, strict=True), 1)
    ]
    names = ("step", "held_out/loss", "held_out/low", "held_out/high")
    lines += [dict(zip(names, point, strict=True)) for point in held_out]
    (folder / "logs" / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    if is_done:
        manifest = plan.unstructure(manifest_of(of, len(losses), losses[-1]))
        atomic.write_text(folder / f"{of.outputs.name}{SUFFIX}", strict_json.canonical(manifest))
    return folder


def manifest_of(of: plan.Plan, steps: int, loss: float) -> Manifest:
    """A manifest that names no file."""
    made = Made(
        family="sd1",
        base_name="base",
        base_digest=of.program.base.digest,
        prediction_type="epsilon",
        data_digest=of.program.data.digest,
        samples=10,
        method="lora",
        rank=16,
        alpha=16.0,
        modules={"unet": 96},
        dtype="fp16",
        author="",
        license="",
    )
    usage = Usage(
        example="", trigger_words="", preferred_weight=0.8, negative_text="", sd_version="SD1", resolution=512
    )
    hashes = Hashes(
        sha256="",
        body_sha256="",
        civitai_autov2="",
        civitai_autov3="",
        webui_shorthash="",
        sshs_legacy_hash="",
    )
    again = Again(command="", plan_hash=of.plan_hash, seed=0, steps=steps, effective_batch=4, versions={})
    return Manifest(
        format=FORMAT,
        name=of.outputs.name,
        plan_hash=of.plan_hash,
        made=made,
        usage=usage,
        hashes=hashes,
        files=(),
        consumers=(),
        run=Facts(steps=steps, seconds=float(steps), loss=loss, micro_batch=2, peak_bytes=2**30),
        again=again,
    )
