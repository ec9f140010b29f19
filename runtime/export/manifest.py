"""The manifest, `NAME.lorac.json`: what a run made, of what, for whom, and how to make it again.

It is written last: where it is, every file that it names is whole. It alone holds dates and measured
figures, so it is not among the files that the same plan gives byte for byte.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import attrs

from runtime import plan
from runtime.safeio import paths, strict_json

FORMAT = 1
SUFFIX = ".lorac.json"

Loads = Literal["loads", "partial", "refuses", "not checked"]
Role = Literal["webui", "diffusers", "peft", "gguf", "sidecar", "preview", "embedding"]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@attrs.frozen(kw_only=True)
class Choice:
    """Which checkpoint was exported, by which rule: the one after `step` of `trained` steps.

    `loss` is its loss on what is held out, `low` and `high` bound that to 95 %. It is `gap` above the lowest one, after
    `lowest_step`, with a standard error of `error`. `stopped`: why the run ended before its last step; empty where it
    did not.
    """

    rule: str
    step: int
    loss: float
    low: float
    high: float
    lowest_step: int
    gap: float
    error: float
    trained: int
    stopped: str = ""


@attrs.frozen(kw_only=True)
class Facts:
    """What only the run knows. `steps`: of what is exported; `loss`: mean over the last of them; `seconds`: spent in
    steps; `micro_batch`: at the end. `metrics`: what was measured, by name. `notes`: what did not go as planned.
    `choice`: why this checkpoint; None where the plan says the last and trains to the end. Times: ISO 8601, UTC."""

    steps: int
    seconds: float
    loss: float
    micro_batch: int
    device: str = ""
    peak_bytes: int = 0
    metrics: dict[str, float] = attrs.field(factory=dict)
    notes: tuple[str, ...] = ()
    choice: Choice | None = None
    started_at: str = ""
    finished_at: str = attrs.field(factory=_now)


@attrs.frozen(kw_only=True)
class File:
    """One file beside the manifest: what it is for, its size in bytes, its hash."""

    name: str
    role: Role
    size: int
    sha256: str


@attrs.frozen(kw_only=True)
class Verdict:
    """Whether a consumer takes the LoRA, which of the files, and where it wants it (below its own folder)."""

    consumer: str
    loads: Loads
    reason: str
    file: str
    folder: str
    call: str


@attrs.frozen(kw_only=True)
class Hashes:
    """What others show for the WebUI's file. `autov2` depends on the metadata, the others on the weights
    alone. `sshs_legacy_hash` is empty where the file is not for the WebUI."""

    sha256: str
    body_sha256: str
    civitai_autov2: str
    civitai_autov3: str
    webui_shorthash: str
    sshs_legacy_hash: str


@attrs.frozen(kw_only=True)
class Made:
    """What the LoRA is. `samples` are pictures, or conversations and texts; `modules` counts them by component.

    `average` says of what over the steps the weights are the average; empty where they are the last step's.
    """

    family: str
    base_name: str
    base_digest: str
    prediction_type: str
    data_digest: str
    samples: int
    method: str
    rank: int
    alpha: float
    modules: dict[str, int]
    dtype: str
    author: str
    license: str
    average: str = ""


@attrs.frozen(kw_only=True)
class Usage:
    """How to call it: in a prompt, or to a program. `resolution` is 0 and `sd_version` empty where nothing is drawn.

    `clip_skip` is what the WebUI's setting of that name wants to be; diffusers' is one less.
    """

    example: str
    trigger_words: str
    preferred_weight: float
    negative_text: str
    sd_version: str
    resolution: int
    clip_skip: int = 1


@attrs.frozen(kw_only=True)
class Again:
    """What gives the same weights again: this plan (plan.json beside the manifest), with these versions."""

    command: str
    plan_hash: str
    seed: int
    steps: int
    effective_batch: int
    versions: dict[str, str]


@attrs.frozen(kw_only=True)
class Manifest:
    """A finished export."""

    format: int
    name: str
    plan_hash: str
    made: Made
    usage: Usage
    hashes: Hashes
    files: tuple[File, ...]
    consumers: tuple[Verdict, ...]
    run: Facts
    again: Again


def read(path: Path) -> Manifest:
    """Read a manifest. Raises InputError or PlanError for a file that is none."""
    return plan.structure(strict_json.read(path), Manifest, paths.display(path))
