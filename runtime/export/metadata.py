"""The `__metadata__` of the WebUI's file: kohya's `ss_*`, ModelSpec 1.0.1, the hashes, and lorac's own three.

- Equal plan and weights give equal bytes, so nothing here comes from the clock or the machine: no
  `ss_training_started_at` (A1111 shows it as a date, and "0" would be 1970; left out, it shows none), no
  `ss_training_finished_at`, no `modelspec.date`. They are in the manifest.
- `ss_session_id`, at random elsewhere, only groups the files of one training: here it comes from the
  plan's hash.
- Values are text. Tables are JSON objects: A1111 drops the whole panel where `ss_dataset_dirs` is none.
- Keys of kohya's that say nothing of this training are left out, not filled with its defaults.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import attrs
from torch import Tensor

from runtime import plan as plans
from runtime.adapters import method
from runtime.export import dataset, embeddings
from runtime.families import family
from runtime.plan import Plan
from runtime.safeio import safetensors

SPEC_VERSION = "1.0.1"
"""ModelSpec, https://github.com/Stability-AI/ModelSpec"""

LEGACY = slice(0x100000, 0x110000)
"""Bytes that additional-networks' first hash was over; kohya's trainer still writes it as
`sshs_legacy_hash`."""


@attrs.frozen
class Hashes:
    """`body`: SHA-256 of the bytes after the header; `legacy`: 8 hex digits, as in LEGACY."""

    body: str
    legacy: str


def complete(
    plan: Plan, tensors: Mapping[str, Tensor], name: str, step: int, thumbnail: str
) -> dict[str, str]:
    """All metadata of the file `name`.safetensors, whose weights are those after `step` steps."""
    facts = family(plan.program.base.family).metadata(plan.program.base)
    trained = training(plan, name, step) | _only(facts, "ss_")
    found = hashes(tensors, trained)
    return {
        **trained,
        **modelspec(plan, name, thumbnail),
        **_only(facts, "modelspec."),
        "modelspec.hash_sha256": f"0x{found.body}",
        "sshs_model_hash": found.body,
        "sshs_legacy_hash": found.legacy,
        **origin(plan),
    }


def origin(plan: Plan) -> dict[str, str]:
    """Which plan, base and pictures a file came from."""
    return {
        "lorac.plan_hash": plan.plan_hash,
        "lorac.base_digest": plan.program.base.digest,
        "lorac.data_digest": plan.program.data.digest,
    }


def hashes(tensors: Mapping[str, Tensor], trained: Mapping[str, str]) -> Hashes:
    """The hashes that kohya's trainer gives: over the tensors serialised with the `ss_*` metadata alone."""
    data = safetensors.serialise(tensors, trained)
    body = 8 + int.from_bytes(data[:8], "little")
    legacy = hashlib.sha256(data[LEGACY]).hexdigest()[:8]
    return Hashes(hashlib.sha256(memoryview(data)[body:]).hexdigest(), legacy)


def training(plan: Plan, name: str, step: int) -> dict[str, str]:
    """`ss_*`: what kohya's trainer says of a run, as far as it is so of this one."""
    program, data = plan.program, plans.pictures(plan.program.data)
    items = data.items
    train, adapter = program.train, program.adapter
    module, rank, args = method(adapter.method).network(adapter)
    samples = sum(item.repeats for item in items)
    per_epoch = math.ceil(samples / train.effective_batch)
    values: dict[str, Any] = {
        "session_id": int(plan.plan_hash[:8], 16),
        "output_name": name,
        "training_comment": f"trained by lorac, plan {plan.plan_hash[:12]}",
        "sd_model_name": plan.outputs.base_name,
        "network_module": module,
        "network_dim": rank,
        "network_alpha": adapter.alpha,
        "network_dropout": adapter.dropout or None,
        "network_args": args,
        "learning_rate": train.learning_rate,
        "unet_lr": train.learning_rate,
        "text_encoder_lr": train.text_encoder_learning_rate if len(adapter.targets) > 1 else None,
        "lr_scheduler": train.schedule.name,
        "lr_warmup_steps": train.schedule.warmup_steps,
        "optimizer": _optimizer(plan),
        "max_grad_norm": train.max_grad_norm,
        "max_train_steps": train.steps,
        "steps": step,
        "epoch": math.ceil(step / per_epoch),
        "num_epochs": math.ceil(train.steps / per_epoch),
        "num_batches_per_epoch": math.ceil(samples / (train.micro_batch * train.processes)),
        "num_train_images": samples,
        "num_reg_images": 0,
        "batch_size_per_device": train.micro_batch,
        "total_batch_size": train.effective_batch,
        "gradient_accumulation_steps": train.accumulation,
        "gradient_checkpointing": bool(program.compute.checkpointed),
        "mixed_precision": "no" if program.compute.dtype == "fp32" else program.compute.dtype,
        "full_fp16": False,
        "cache_latents": True,
        "seed": train.seed,
        "clip_skip": program.base.clip_skip if program.base.clip_skip > 1 else None,
        "noise_offset": train.objective.noise_offset or None,
        "min_snr_gamma": train.objective.snr_gamma or None,
        "debiased_estimation": train.objective.debiased,
        "zero_terminal_snr": bool(program.base.architecture.get("scheduler", {}).get(plans.ZERO_SNR)),
        "multires_noise_iterations": train.objective.pyramid_iterations or None,
        "multires_noise_discount": train.objective.pyramid_discount or None,
        "ip_noise_gamma": train.objective.input_perturbation or None,
        "loss_type": train.objective.loss_type,
        "huber_schedule": train.objective.huber_schedule if train.objective.huber_c else None,
        "huber_c": train.objective.huber_c or None,
        "prior_loss_weight": 1.0,
        "masked_loss": data.mask != "none",
        "caption_dropout_rate": data.caption_dropout,
        "caption_tag_dropout_rate": data.tag_dropout,
        "resolution": (data.resolution,) * 2,
        "color_aug": bool(data.augment and (data.augment.color_jitter or data.augment.hue_jitter)),
        "flip_aug": data.flip,
        "random_crop": bool(data.augment and data.augment.random_crop),
        "shuffle_caption": data.shuffle_tags,
        "keep_tokens": data.keep_tags,
        "enable_bucket": len({item.bucket for item in items}) > 1,
        "bucket_info": dataset.buckets(items),
        "dataset_dirs": dataset.folders(items, plan.outputs.name),
        "reg_dataset_dirs": {},
        "tag_frequency": dataset.tags(items, plan.outputs.name),
    }
    return {f"ss_{key}": _text(value) for key, value in values.items()}


def modelspec(plan: Plan, name: str, thumbnail: str) -> dict[str, str]:
    """`modelspec.*` without the family's own; what the user left empty is left out."""
    outputs, side = plan.outputs, plans.pictures(plan.program.data).resolution
    call = f"<lora:{name}:{outputs.preferred_weight:g}>"
    trigger = embeddings.in_programs(outputs.trigger, plan.program.adapter)
    version = plan.program.versions.get("lorac")
    skip = plan.program.base.clip_skip
    values = {
        "sai_model_spec": SPEC_VERSION,
        "title": name,
        "resolution": f"{side}x{side}",
        "encoder_layer": str(skip) if skip > 1 else "",
        "description": outputs.description,
        "author": outputs.author,
        "license": outputs.license,
        "tags": ", ".join(outputs.tags),
        "trigger_phrase": trigger,
        "usage_hint": f"{call} {trigger}".strip(),
        "thumbnail": thumbnail,
        "implementation_version": f"lorac/{version}" if version else "",
    }
    return {f"modelspec.{key}": value for key, value in values.items() if value}


OPTIMIZERS = {
    "adamw": "torch.optim.adamw.AdamW",
    "adafactor": "transformers.optimization.Adafactor",
    "lion": "lion_pytorch.lion_pytorch.Lion",
    "prodigy": "prodigyopt.prodigy.Prodigy",
    "schedule_free_adamw": "schedulefree.adamw_schedulefree.AdamWScheduleFree",
}
"""The classes that kohya's trainer names for the same."""
ADAMW_8BIT = "bitsandbytes.optim.adamw.AdamW8bit"


def _optimizer(plan: Plan) -> str:
    """As kohya's trainer writes it: class, then its arguments."""
    optimizer = plan.program.train.optimizer
    given: dict[str, Any] = {"weight_decay": optimizer.weight_decay}
    match optimizer:
        case plans.Adafactor():
            given |= {"eps": (optimizer.eps, 1e-3), "clip_threshold": optimizer.clip_threshold}
            given |= {"decay_rate": -optimizer.decay_power, "beta1": optimizer.beta1 or None}
            given |= {"scale_parameter": optimizer.scale_parameter, "relative_step": False}
        case plans.Lion():
            given["betas"] = (optimizer.beta1, optimizer.beta2)
        case _:
            given |= {"betas": (optimizer.beta1, optimizer.beta2), "eps": optimizer.eps}
    if isinstance(optimizer, plans.Prodigy):
        given |= {"d0": optimizer.d0, "d_coef": optimizer.d_coef}
        given |= {"growth_rate": optimizer.growth_rate} if optimizer.growth_rate else {}
        given |= {"use_bias_correction": optimizer.bias_correction}
        given |= {"safeguard_warmup": optimizer.safeguard_warmup}
    name = ADAMW_8BIT if optimizer.state_bits == 8 else OPTIMIZERS[optimizer.name]
    return f"{name}({','.join(f'{key}={value}' for key, value in given.items())})"


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)


def _only(facts: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {key: value for key, value in facts.items() if key.startswith(prefix)}
