"""What lies beside a LoRA: `NAME.json`, which A1111 and Forge show and edit, and the manifest,
`NAME.lorac.json`.

The manifest is never called NAME.json: WebUI would take it for its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import attrs

from runtime import plan as plans
from runtime.export import consumers, diffusers, embeddings, peft
from runtime.export.manifest import FORMAT, Again, Facts, File, Hashes, Made, Manifest, Role, Usage
from runtime.families import family
from runtime.plan import Plan
from runtime.safeio import digest, safetensors, strict_json

NAMED: dict[str, Role] = {diffusers.FILE: "diffusers", peft.FILE: "peft", peft.CONFIG: "peft"}
ROLES: dict[str, Role] = {".safetensors": "webui", ".json": "sidecar", ".png": "preview", ".gguf": "gguf"}


def webui(plan: Plan) -> str:
    """The sidecar's text. "activation text" is what a click on the LoRA's card adds to the prompt."""
    outputs = plan.outputs
    return strict_json.canonical(
        {
            "description": outputs.description,
            "sd version": sd_version(plan),
            "activation text": _trigger(plan),
            "preferred weight": outputs.preferred_weight,
            "negative text": outputs.negative_text,
            "notes": outputs.notes,
        }
    )


def sd_version(plan: Plan) -> str:
    """A1111's and Forge's word for the family: SD1, SD2, SDXL, Flux, or Unknown."""
    if isinstance(plan.program.data, plans.Texts):
        return ""
    return family(plan.program.base.family).metadata(plan.program.base).get("sd version", "Unknown")


def _trigger(plan: Plan) -> str:
    """The trigger words as a prompt in WebUI has them."""
    return embeddings.in_programs(plan.outputs.trigger, plan.program.adapter)


def _example(plan: Plan) -> str:
    """How the adapter is called: in a prompt, or by vLLM's command."""
    outputs = plan.outputs
    if isinstance(plan.program.data, plans.Texts):
        return f"vllm serve {outputs.base_name} --enable-lora --lora-modules {outputs.name}={outputs.places.output}"
    return f"<lora:{outputs.name}:{outputs.preferred_weight:g}> {_trigger(plan)}".strip()


def manifest(
    folder: Path, files: Sequence[str], plan: Plan, modules: dict[str, int], facts: Facts
) -> Manifest:
    """What goes into `NAME.lorac.json`, for these files as they lie in `folder`."""
    program, outputs = plan.program, plan.outputs
    about = family(program.base.family).metadata(program.base)
    file = next(each for each in files if each.endswith(".safetensors"))
    header = safetensors.read_header(folder / file)
    example = _example(plan)
    return Manifest(
        format=FORMAT,
        name=outputs.name,
        plan_hash=plan.plan_hash,
        made=Made(
            family=program.base.family,
            base_name=outputs.base_name,
            base_digest=program.base.digest,
            prediction_type=program.base.prediction_type,
            data_digest=program.data.digest,
            samples=plans.samples(program.data),
            method=program.adapter.method,
            rank=program.adapter.rank,
            alpha=program.adapter.alpha,
            modules=modules,
            dtype=outputs.dtype,
            author=outputs.author,
            license=outputs.license,
            average=_average(program.train),
        ),
        usage=Usage(
            example=example,
            trigger_words=_trigger(plan),
            preferred_weight=outputs.preferred_weight,
            negative_text=outputs.negative_text,
            sd_version=sd_version(plan),
            resolution=0 if isinstance(program.data, plans.Texts) else program.data.resolution,
            clip_skip=program.base.clip_skip,
        ),
        hashes=_hashes(folder / file, header.metadata.get("sshs_legacy_hash", "")),
        files=tuple(_file(folder, each) for each in files),
        consumers=consumers.of_language(
            program.adapter,
            file,
            outputs.places.output,
            next((each for each in files if each.endswith(".gguf")), ""),
        )
        if isinstance(program.data, plans.Texts)
        else (
            *consumers.verdicts(
                about.get("modelspec.architecture", ""),
                header.tensors,
                file,
                example,
                outputs.preferred_weight,
            ),
            *embeddings.verdicts(family(program.base.family), plan),
        ),
        run=_recorded(facts),
        again=Again(
            command="lorac run plan.json",
            plan_hash=plan.plan_hash,
            seed=program.train.seed,
            steps=program.train.steps,
            effective_batch=program.train.effective_batch,
            versions=program.versions,
        ),
    )


def _recorded(facts: Facts) -> Facts:
    """The facts as JSON can hold them: a measurement that failed must not cost the LoRA."""
    lost = [name for name, value in facts.metrics.items() if not math.isfinite(value)]
    kept = {name: value for name, value in facts.metrics.items() if name not in lost}
    notes = (*facts.notes, *(f"{name} is not a finite number" for name in lost))
    return attrs.evolve(facts, metrics=kept, notes=notes)


def _hashes(path: Path, legacy: str) -> Hashes:
    whole, body = digest.sha256_file(path), safetensors.body_sha256(path)
    return Hashes(
        sha256=whole,
        body_sha256=body,
        civitai_autov2=whole[:10],
        civitai_autov3=body[:12],
        webui_shorthash=body[:12],
        sshs_legacy_hash=legacy,
    )


def _average(train: plans.Train) -> str:
    """How the weights were averaged over the steps, if they were."""
    if isinstance(train.optimizer, plans.ScheduleFreeAdamW):
        return "schedule-free"
    return f"exponential moving average, decay {train.ema:g}" if train.ema else ""


def _file(folder: Path, name: str) -> File:
    path = folder / name
    is_word = name.startswith(f"{embeddings.FOLDER}/")
    role = "embedding" if is_word else NAMED.get(name) or ROLES[path.suffix]
    return File(name=name, role=role, size=path.stat().st_size, sha256=digest.sha256_file(path))
