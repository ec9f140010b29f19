"""The plan: the machine's instruction set. The compiler targets it, the runtime executes it.

- Three parts. `program` decides the trained bytes and is what `plan_hash` covers; `outputs` says what is written
  and where; `estimate` says what the plan was expected to cost and why its numbers were chosen.
- Data only: reading a plan runs no code, takes no unknown key, coerces nothing.
- No absolute path, time of day, host or user name is in `program`: the same inputs give the same hash everywhere.
- Nothing is optional in `program`: where a thing is off, it has the value that means off.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import attrs

from runtime import plan_items
from runtime.errors import OtherFormat, PlanError, Problem
from runtime.plan_adapter import Adapter as Adapter
from runtime.plan_adapter import AlphaOf as AlphaOf
from runtime.plan_adapter import RankOf as RankOf
from runtime.plan_adapter import Word as Word
from runtime.plan_adapter import alpha_of as alpha_of
from runtime.plan_adapter import called as called
from runtime.plan_adapter import rank_of as rank_of
from runtime.plan_adapter import token_of as token_of
from runtime.plan_adapter import trained as trained
from runtime.plan_checks import why_eager as why_eager
from runtime.plan_checks import wrongs
from runtime.plan_data import Augment as Augment
from runtime.plan_data import Clip as Clip
from runtime.plan_data import Data as Data
from runtime.plan_data import Frame as Frame
from runtime.plan_data import Images as Images
from runtime.plan_data import Item as Item
from runtime.plan_data import Mask as Mask
from runtime.plan_data import Shape as Shape
from runtime.plan_data import TextFile as TextFile
from runtime.plan_data import Texts as Texts
from runtime.plan_data import are_weighted as are_weighted
from runtime.plan_data import each_file as each_file
from runtime.plan_data import every_item as every_item
from runtime.plan_data import is_inner as is_inner
from runtime.plan_data import largest as largest
from runtime.plan_data import locked_files as locked_files
from runtime.plan_data import picture_variants as picture_variants
from runtime.plan_data import pictures as pictures
from runtime.plan_data import pixels as pixels
from runtime.plan_data import samples as samples
from runtime.plan_data import shape as shape
from runtime.plan_form import AGAIN
from runtime.plan_form import structure as structure
from runtime.plan_form import unstructure as unstructure
from runtime.plan_objective import NOT_OF_CLIPS as NOT_OF_CLIPS
from runtime.plan_objective import WITH_THRESHOLD as WITH_THRESHOLD
from runtime.plan_objective import HuberSchedule as HuberSchedule
from runtime.plan_objective import LossType as LossType
from runtime.plan_objective import Objective as Objective
from runtime.plan_objective import Timesteps as Timesteps
from runtime.plan_optimizers import PACKAGES as PACKAGES
from runtime.plan_optimizers import Adafactor as Adafactor
from runtime.plan_optimizers import AdamW as AdamW
from runtime.plan_optimizers import Lion as Lion
from runtime.plan_optimizers import Optimizer as Optimizer
from runtime.plan_optimizers import Prodigy as Prodigy
from runtime.plan_optimizers import ScheduleFreeAdamW as ScheduleFreeAdamW
from runtime.plan_optimizers import StateBits as StateBits
from runtime.safeio import atomic, strict_json

FORMAT = 5

Layout = Literal["diffusers", "single_file", "transformers", "gguf"]
Dtype = Literal["fp32", "bf16", "fp16"]
Quantization = Literal["none", "int8", "fp8", "nf4"]
PredictionType = Literal["epsilon", "v_prediction", "flow", "next_token"]
Curve = Literal[
    "constant", "linear", "cosine", "polynomial", "cosine_with_restarts", "warmup_stable_decay", "rex"
]
ZERO_SNR = "rescale_betas_zero_snr"
"""The key of an architecture's scheduler (diffusers' name) by which its noise schedule ends in pure noise."""


@attrs.frozen(kw_only=True)
class Base:
    """The frozen model. `digest` is over its files' contents; `architecture` maps component -> config.

    `remote_code`: the base brings Python files that loading it runs; they are covered by the digest. `clip_skip`: the
    text tower is read that many layers from its end, as A1111's WebUI counts (1 is the last): `architecture` has the
    layers that are left.
    """

    family: str
    layout: Layout
    digest: str
    prediction_type: PredictionType
    architecture: dict[str, Any]
    remote_code: bool = False
    clip_skip: int = 1


@attrs.frozen(kw_only=True)
class Schedule:
    """The learning rate's factor over steps: linear warm-up, then the named curve, down to `min_ratio` (or constant).

    `cycles` are of "cosine_with_restarts"; "warmup_stable_decay" falls in its last `decay_steps`.
    """

    name: Curve
    warmup_steps: int
    power: float
    cycles: int = 1
    decay_steps: int = 0
    min_ratio: float = 0.0


@attrs.frozen(kw_only=True)
class Fallback:
    """A smaller micro-batch with the same effective batch, to step down to when memory runs out."""

    micro_batch: int
    accumulation: int


@attrs.frozen(kw_only=True)
class Train:
    """What is trained for how long. micro_batch * accumulation * processes == effective_batch.

    `lora_plus_ratio` is B's learning rate in A's (LoRA+, Hayou et al. 2024). `ema` is the decay of a moving average of
    the weights, which is what is sampled, evaluated and exported; 0 is off.
    """

    steps: int
    effective_batch: int
    micro_batch: int
    accumulation: int
    processes: int
    learning_rate: float
    text_encoder_learning_rate: float
    schedule: Schedule
    optimizer: Optimizer
    objective: Objective
    max_grad_norm: float
    seed: int
    lora_plus_ratio: float = 1.0
    ema: float = 0.0
    fallbacks: tuple[Fallback, ...] = ()


def blocks_away(compute: Compute) -> tuple[str, ...]:
    """The blocks among what is offloaded: a block is named COMPONENT.PATH, an encoder by its component alone."""
    return tuple(name for name in compute.offloaded if "." in name)


def streams(compute: Compute, component: str) -> bool:
    """Whether some of the component's blocks are offloaded or split: it is laid on the device block by block."""
    return any(block.startswith(f"{component}.") for block in (*blocks_away(compute), *compute.sharded))


@attrs.frozen(kw_only=True)
class Compute:
    """How the step is computed. `checkpointed` names the blocks whose activations are recomputed.

    `offloaded` names what waits in the computer's memory while it is not used: encoders between pictures, blocks of
    frozen weights between their forward and their backward. Attention runs in `attention_chunks` slices of queries.
    With `paged_optimizer` the optimizer's state waits there between steps.
    `threads` is how many a CPU computes with: sums over other counts have other last bits. 0 on a card.
    `sharded` names the blocks whose frozen weights are split among the processes, each gathered where it computes.
    `deterministic` refuses operators that have no exact form (`runtime.exactness`), where torch would only warn.
    `compiled`: the blocks of a full micro-batch compute compiled (`runtime.compiled`), by the compiler in `versions`.
    """

    device: Literal["cuda", "cpu"]
    threads: int
    dtype: Dtype
    checkpointed: tuple[str, ...]
    quantization: Quantization = "none"
    offloaded: tuple[str, ...] = ()
    attention_chunks: int = 1
    paged_optimizer: bool = False
    deterministic: bool = False
    sharded: tuple[str, ...] = ()
    compiled: bool = False


@attrs.frozen(kw_only=True)
class Evaluation:
    """What is decided by the loss on what is held out (`runtime.choice`).

    The checkpoints each `every` steps, and the last, are measured and may be chosen; 0 is the last alone. After
    `patience` of them without a lower loss the run ends; 0 is never.
    """

    choose: Literal["best", "last"] = "last"
    patience: int = 0
    every: int = 0


@attrs.frozen(kw_only=True)
class Program:
    """Everything that decides the trained bytes."""

    locked: bool
    base: Base
    data: Data
    adapter: Adapter
    train: Train
    compute: Compute
    versions: dict[str, str]
    evaluation: Evaluation = Evaluation()


@attrs.frozen(kw_only=True)
class Places:
    """Where things are, relative to the folder that lorac runs in, or absolute. Not hashed.

    `parts`: component, or vocabulary, -> its place, of a base that is one file and has them elsewhere.
    """

    base: str
    data: str
    output: str
    log: str
    parts: dict[str, str] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Samples:
    """Pictures made at each checkpoint and at the end. `every` is in steps; 0 is at the end only.

    `references` are places of pictures that the contact sheet shows beside the samples, one a prompt, or none.
    A `tiled` picture comes out of the autoencoder in overlapping tiles: less memory, and seams that are blended.
    """

    prompts: tuple[str, ...]
    negative_prompt: str
    seed: int
    steps: int
    guidance: float
    width: int
    height: int
    weight: float
    every: int
    references: tuple[str, ...] = ()
    tiled: bool = False
    kind: Literal["pictures"] = "pictures"


@attrs.frozen(kw_only=True)
class Answers:
    """Answers of a language model at each checkpoint and at the end, with the adapter and without.

    `temperature` 0 takes the likeliest token; else answer i is drawn with seed + i.
    """

    prompts: tuple[str, ...]
    system: str
    seed: int
    max_tokens: int
    temperature: float
    every: int
    kind: Literal["answers"] = "answers"


@attrs.frozen(kw_only=True)
class Outputs:
    """What is written, under which name, with which words. `gguf`: llama.cpp's file too, of a language model."""

    name: str
    places: Places
    samples: Samples | Answers
    base_name: str
    save_steps: int
    keep_checkpoints: int
    dtype: Dtype
    trigger: str
    preferred_weight: float
    description: str
    author: str
    license: str
    notes: str
    negative_text: str
    tags: tuple[str, ...]
    gguf: bool = False


@attrs.frozen(kw_only=True)
class Decision:
    """One number the planner set, and why."""

    field: str
    value: str
    reason: str


@attrs.frozen(kw_only=True)
class Rejected:
    """A point that was looked at and not taken."""

    point: str
    peak_bytes: int
    seconds_per_step: float
    reason: str


@attrs.frozen(kw_only=True)
class Estimate:
    """Predicted cost: bytes at the peak by kind, bytes by phase, seconds.

    `fallback_bytes` are the peaks of `train.fallbacks`, in their order. `host_bytes` is the most that the process has
    of main memory; `disk_bytes` all that the run writes, `cache_bytes` of it in lorac's cache.
    `compile_seconds` are those of `seconds` in which blocks are compiled.
    """

    card: str
    card_bytes: int
    usable_bytes: int
    peak_bytes: int
    by_kind: dict[str, int]
    phases: dict[str, int]
    fallback_bytes: tuple[int, ...]
    host_bytes: int
    disk_bytes: int
    seconds_per_step: float
    seconds: float
    decisions: tuple[Decision, ...]
    rejected: tuple[Rejected, ...]
    cache_bytes: int = 0
    compile_seconds: float = 0.0


@attrs.frozen(kw_only=True)
class Plan:
    """A compiled experiment."""

    format: int
    plan_hash: str
    program: Program
    outputs: Outputs
    estimate: Estimate


def planned_memory(of: Plan) -> int:
    """Bytes that a run's memory is held against: the card's peak, or the process's own on a CPU."""
    return of.estimate.peak_bytes if of.program.compute.device == "cuda" else of.estimate.host_bytes


# ---------------------------------------------------------------------------------------------------------- reading


def hash_program(program: Program) -> str:
    """sha256 of the program's canonical JSON, in hex."""
    return strict_json.sha256(_plain(program))


def _plain(program: Program) -> dict[str, Any]:
    """Plain JSON data of a program, whose pictures are made as they are written: a million are some gigabytes."""
    data = program.data
    if not isinstance(data, Images):
        return dict(unstructure(program))
    made: dict[str, Any] = unstructure(attrs.evolve(program, data=attrs.evolve(data, items=())))
    made["data"]["items"] = strict_json.Each(unstructure, data.items)
    return made


def _plain_plan(plan: Plan) -> dict[str, Any]:
    rest = {field.name: getattr(plan, field.name) for field in attrs.fields(Plan)}
    return {**unstructure({**rest, "program": None}), "program": _plain(plan.program)}


def make(program: Program, outputs: Outputs, estimate: Estimate) -> Plan:
    """A plan of these three parts, with its hash."""
    return Plan(
        format=FORMAT,
        plan_hash=hash_program(program),
        program=program,
        outputs=outputs,
        estimate=estimate,
    )


def dumps(plan: Plan) -> str:
    """The plan as canonical JSON."""
    return strict_json.canonical(_plain_plan(plan))


def loads(text: str, where: str = "plan.json") -> Plan:
    """Read a plan from canonical (or any strict) JSON. Raises PlanError."""
    return _checked(_of_this_format(_parsed(text, where), where), where)


def _parsed(text: str, where: str) -> Any:
    """Plain JSON data. Raises PlanError."""
    try:
        return strict_json.loads(text, where, error=PlanError)
    except PlanError as error:
        raise PlanError(attrs.evolve(one, hint=AGAIN) for one in error.problems) from None


def _of_this_format(data: Any, where: str) -> Any:
    """The data of a plan that this lorac reads. Raises PlanError, OtherFormat for another lorac's."""
    if not isinstance(data, dict) or "format" not in data:
        raise PlanError(Problem(where, "is not a lorac plan: it has no `format`", AGAIN))
    found = data["format"]
    if found != FORMAT:
        what = f"is a plan of format {found!r}, and this lorac reads format {FORMAT}"
        newer = isinstance(found, int) and found > FORMAT
        hint = "compile it anew from its spec: lorac plan SPEC"
        raise OtherFormat(Problem(where, what, f"take the newer lorac, or {hint}" if newer else hint))
    return data


def _checked(data: Any, where: str, beside: Iterable[tuple[str, Any]] = ()) -> Plan:
    """A plan of plain JSON data, and of its pictures with their places where they are not in it. Raises PlanError."""
    plan = structure(data, Plan, where)
    if items := tuple(structure(item, Item, place) for place, item in beside):
        lean = plan.program
        plan = attrs.evolve(
            plan, program=attrs.evolve(lean, data=attrs.evolve(pictures(lean.data), items=items))
        )
    problems = [Problem(where, what, AGAIN) for what in wrongs(plan, hash_program(plan.program))]
    if problems:
        raise PlanError(problems)
    return plan


def read(path: Path) -> Plan:
    """Read a plan from a file, and from the one beside it where its pictures are many. Raises PlanError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = (
            f"is not UTF-8 (byte {error.start})" if isinstance(error, UnicodeDecodeError) else error.strerror
        )
        raise PlanError(
            Problem(str(path), f"cannot be read: {why}", "give the path of a plan.json")
        ) from None
    data = _of_this_format(_parsed(text, str(path)), str(path))
    return _checked(data, str(path), plan_items.take_out(data, path))


def write(plan: Plan, path: Path) -> None:
    """Write a plan to a file, whole or not at all; many pictures to one beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = _plain_plan(plan)
    plan_items.set_aside(data, path)
    atomic.write_text(path, strict_json.canonical(data))
