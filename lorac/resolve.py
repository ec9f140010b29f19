"""From what a person wrote to a program with nothing open but what the search may trade.

- Every default is written out; the base and the data are locked by digest, or marked as not at hand.
- What the program says is the same on every machine: no absolute path, time, host or user name goes in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

from lorac import clip_lock, hub, spec, text_lock
from lorac.agree import batch_choices
from lorac.data_lock import assume_images, lock
from lorac.estimate.cards import Card
from lorac.parts import at_field, spec_place
from lorac.parts import preferred as preferred
from lorac.places import GGUF, TEXT_PACKAGES, cache_folder, versions
from lorac.resolve_adapter import adapter_of, check_words
from lorac.resolve_objective import objective_of
from lorac.resolve_optimizers import optimizer_decisions, optimizer_of
from lorac.resolve_outputs import (
    epochs_in_steps,
    evaluation_of,
    images_of,
    outputs_of,
    references_of,
    texts_of,
)
from runtime import plan
from runtime.adapters import words
from runtime.errors import InputError, Problem, SpecError
from runtime.families import FAMILIES, family
from runtime.families.inspect import inspect
from runtime.families.parts import Files, vocabulary
from runtime.families.protocol import Family
from runtime.safeio import digest

ASSUMED_PICTURES = 100

MOST_CUT = 0.5
"""Share of captions that may be longer than the text encoder takes; above it, the plan is refused."""


@attrs.frozen(kw_only=True)
class Resolved:
    """A program whose rank, micro-batch, accumulation and compute are still the preferred ones, not yet fitted.

    `lengths` are the tokens of each text that is trained on, where they are at hand; pictures' sizes are in the data.
    """

    experiment: spec.Experiment
    program: plan.Program
    outputs: plan.Outputs
    card: Card
    decisions: tuple[plan.Decision, ...]
    lengths: text_lock.Numbers | None = attrs.field(default=None, eq=False)


def resolve(experiment: spec.Experiment, root: Path, folder: Path, card: Card, unlocked: bool) -> Resolved:
    """Settle everything that needs no search. Raises SpecError or InputError.

    `root` is the folder that lorac runs in, `folder` the one that the spec's paths are relative to.
    """
    base_path = folder / experiment.base.path
    base, base_name, elsewhere = _base(experiment, base_path, folder, unlocked)
    base_locked = bool(base.digest)
    architecture = family(base.family)
    given = texts_of(experiment)
    data: plan.Data
    lengths = None
    if (architecture.KIND == "text") != bool(given):
        takes = "pictures" if given else "text"
        hint = (
            "give Images(…)" if given else "give Instructions(…), Conversations(…), Completions(…) or Text(…)"
        )
        what = f"the base is a {architecture.TITLE}, which learns from {takes}"
        raise SpecError(Problem(spec_place(experiment, "data"), what, hint))
    adapter = adapter_of(experiment, architecture, base)
    if given:
        found = text_lock.lock(
            given, experiment.sequences, folder, base, base_path if base_locked else None, unlocked
        )
        data, notes, data_locked, data_path = found.texts, found.notes, found.locked, found.folder
        lengths = found.lengths
    else:
        beside = vocabulary(architecture, base_path, elsewhere) if base_locked else None
        data, notes, data_locked, data_path = _pictures(
            experiment, architecture, folder, unlocked, beside, base, adapter
        )
    per_epoch = -(-data.expected // experiment.train.effective_batch)
    train = _train(experiment, architecture, base, per_epoch)
    library = plan.PACKAGES.get(train.optimizer.name)
    program = plan.Program(
        locked=base_locked and data_locked,
        base=base,
        data=data,
        adapter=adapter,
        train=train,
        compute=_compute(experiment, card, architecture, adapter),
        versions=versions(
            *([library] if library else []),
            *(TEXT_PACKAGES if given else ()),
            *((GGUF,) if base.layout == "gguf" else ()),
        ),
        evaluation=evaluation_of(experiment, per_epoch),
    )
    places = plan.Places(
        base=_place(base_path, root),
        data=_place(data_path, root),
        output=_place(root / experiment.outputs.output_dir / experiment.name, root),
        log=_place(root / experiment.outputs.log_dir, root)
        if isinstance(experiment.outputs.log_dir, str)
        else _place(root / experiment.outputs.output_dir / experiment.name / "logs", root),
        parts={name: _place(place, root) for name, place in elsewhere.items()},
    )
    return Resolved(
        experiment=experiment,
        program=program,
        outputs=outputs_of(
            experiment,
            architecture,
            places,
            base_name,
            [_place(folder / r, root) for r in references_of(experiment)],
            per_epoch,
        ),
        card=card,
        decisions=(*_decisions(experiment, program, card), *_of_parts(elsewhere), *notes),
        lengths=lengths,
    )


def _base(
    experiment: spec.Experiment, path: Path, folder: Path, unlocked: bool
) -> tuple[plan.Base, str, Files]:
    """The base, which has no digest where it is not here; its name; and what of it is elsewhere."""
    wanted = experiment.base
    if wanted.family != "auto" and wanted.family not in FAMILIES:
        known = ", ".join(FAMILIES)
        where = spec_place(wanted, "family")
        raise SpecError(Problem(where, f'base.family must be one of {known}, got "{wanted.family}"'))
    if path.exists():
        found = inspect(
            path,
            digest.DigestCache(cache_folder()).sha256_file,
            wanted.family,
            wanted.trust_remote_code,
            [folder / one for one in wanted.parts],
        )
        return _as_told(found.base, wanted), found.name, found.parts
    if not unlocked:
        hint = hub.hint(wanted.path) or (
            f"give a file or folder (looked for {path}), or plan without it: lorac plan SPEC --unlocked"
        )
        raise InputError(Problem(wanted.path, "the base is not here", hint))
    if wanted.family == "auto":
        hint = f'say which it is: Base("{wanted.path}", family="sd1")'
        raise InputError(Problem(wanted.path, "is not here, so its family cannot be recognised", hint))
    with at_field(wanted, "published"):
        published = family(wanted.family).published(wanted.published)
    base = plan.Base(
        family=wanted.family,
        layout="transformers" if family(wanted.family).KIND == "text" else "single_file",
        digest="",
        prediction_type=family(wanted.family).prediction_type(published),
        architecture=published,
    )
    return _as_told(base, wanted), path.stem, {}


def _as_told(base: plan.Base, wanted: spec.Base) -> plan.Base:
    """The base with what the spec says of it and its files do not."""
    title = family(base.family).TITLE
    if isinstance(wanted.prediction_type, str):
        if base.prediction_type == "flow":
            what = f"base.prediction_type: a {title} is a rectified flow and predicts nothing else"
            raise SpecError(Problem(spec_place(wanted, "prediction_type"), what, "leave it out"))
        base = attrs.evolve(base, prediction_type=wanted.prediction_type)
    if isinstance(wanted.zero_terminal_snr, bool):
        if family(base.family).KIND != "images" or base.prediction_type == "flow":
            what = f"base.zero_terminal_snr: a {title} has no schedule of noise that could end elsewhere"
            raise SpecError(Problem(spec_place(wanted, "zero_terminal_snr"), what, "leave it out"))
        scheduler = {**base.architecture["scheduler"], plan.ZERO_SNR: wanted.zero_terminal_snr}
        base = attrs.evolve(base, architecture={**base.architecture, "scheduler": scheduler})
    return _read_earlier(base, wanted) if wanted.clip_skip > 1 else base


def _read_earlier(base: plan.Base, wanted: spec.Base) -> plan.Base:
    """The base whose text tower is read before its last layer: those after it are not there."""
    of = family(base.family)
    where, skip = spec_place(wanted, "clip_skip"), wanted.clip_skip
    if not of.CLIP_SKIP:
        what = f"base.clip_skip: which layer a {of.TITLE} reads is fixed, as every program has it"
        raise SpecError(Problem(where, what, "leave it out"))
    tower = base.architecture[of.CLIP_SKIP]
    layers = tower["num_hidden_layers"]
    if skip > layers:
        raise SpecError(
            Problem(where, f"base.clip_skip must be at most {layers}, the layers there are, got {skip}")
        )
    shorter = {**tower, "num_hidden_layers": layers - skip + 1}
    return attrs.evolve(base, clip_skip=skip, architecture={**base.architecture, of.CLIP_SKIP: shorter})


def _pictures(
    experiment: spec.Experiment,
    of: Family,
    folder: Path,
    unlocked: bool,
    vocabularies: Path | None,
    base: plan.Base,
    adapter: plan.Adapter,
) -> tuple[plan.Images, tuple[plan.Decision, ...], bool, Path]:
    images = images_of(experiment)
    path = folder / images.path
    if of.KIND == "clips" or images.frames > 1:
        return clip_lock.settled(experiment, images, of, path, unlocked)
    if not path.exists() and unlocked:
        expected = images.expected_images
        count = expected if isinstance(expected, int) else ASSUMED_PICTURES
        return assume_images(images, of.GRID, count), (), False, path
    found = lock(images, path, of.GRID, cache=cache_folder(), spec_folder=folder)
    skipped = [plan.Decision(field="skipped", value=p.where, reason=p.what) for p in found.skipped]
    notes = [plan.Decision(field="note", value="data", reason=note) for note in found.notes]
    check_words(experiment, adapter, found.images)
    cut = _long_captions(found.images, of, vocabularies, base, adapter) if vocabularies else ()
    return found.images, (*skipped, *notes, *cut), True, path


def _long_captions(
    data: plan.Images, of: Family, path: Path, base: plan.Base, adapter: plan.Adapter
) -> tuple[plan.Decision, ...]:
    """What of the captions the text encoder will not see. Raises InputError where that is most of them."""
    items = plan.every_item(data)
    tokenizers = words.taught(of.load_tokenizers(path, base), adapter)
    counts = of.caption_tokens(tokenizers, [item.caption for item in items])
    cut = [(item, count) for item, count in zip(items, counts, strict=True) if count > of.CAPTION_TOKENS]
    if not cut:
        return ()
    item, count = max(cut, key=lambda pair: (pair[1], pair[0].path))
    said = f"{len(cut)} of {len(items)} captions are longer than {of.CAPTION_TOKENS} tokens"
    if len(cut) > MOST_CUT * len(items):
        hint = "shorten the captions: what comes after is never seen"
        raise InputError(Problem(item.path, f"{said}; the longest has {count}", hint))
    return (
        plan.Decision(field="captions cut", value=str(len(cut)), reason=f"{said}: {item.path} has {count}"),
    )


def _train(experiment: spec.Experiment, of: Family, base: plan.Base, per_epoch: int) -> plan.Train:
    wanted = experiment.train
    steps = wanted.steps if wanted.steps is not None else (wanted.epochs or 1) * per_epoch
    micro, accumulation = batch_choices(experiment.fit, wanted.effective_batch)[-1]
    text_rate = wanted.text_encoder_learning_rate
    return plan.Train(
        steps=steps,
        effective_batch=wanted.effective_batch,
        micro_batch=micro,
        accumulation=accumulation,
        processes=experiment.fit.processes,
        learning_rate=float(wanted.learning_rate),
        text_encoder_learning_rate=float(
            wanted.learning_rate if isinstance(text_rate, spec.Auto) else text_rate
        ),
        schedule=_schedule(wanted, steps),
        optimizer=optimizer_of(wanted.optimizer, state_bits(experiment)[0]),
        objective=objective_of(wanted, of, base.prediction_type),
        max_grad_norm=float(wanted.max_grad_norm),
        seed=wanted.seed,
        lora_plus_ratio=float(wanted.lora_plus_ratio),
        ema=float(wanted.ema or 0),
    )


def _schedule(wanted: spec.Train, steps: int) -> plan.Schedule:
    """Shares of the steps in steps: what is not warm-up is the most that can fall."""
    warmup = math.ceil(wanted.warmup_ratio * steps) or min(wanted.warmup_steps, steps)
    decay = math.ceil(wanted.decay_ratio * steps) or wanted.decay_steps
    return plan.Schedule(
        name=wanted.scheduler,
        warmup_steps=warmup,
        power=float(wanted.power),
        cycles=wanted.cycles,
        decay_steps=min(decay, steps - warmup),
        min_ratio=float(wanted.min_ratio),
    )


def _compute(experiment: spec.Experiment, card: Card, of: Family, adapter: plan.Adapter) -> plan.Compute:
    threads = experiment.fit.threads
    if card.device != "cpu":
        threads = 0
    elif isinstance(threads, spec.Auto):
        threads = card.multiprocessors
    wanted = experiment.fit.attention_chunks
    chunks = int(wanted.prefer or wanted.low or 1) if isinstance(wanted, spec.Auto) else wanted
    waiting = tuple(name for name in of.COMPONENTS if name not in (of.BACKBONE, *plan.trained(adapter)))
    return plan.Compute(
        device=card.device,
        threads=threads,
        dtype=_dtype(experiment, card),
        checkpointed=(),
        offloaded=waiting if _encoders_wait(experiment.fit.offload) else (),
        attention_chunks=chunks,
        quantization=quantizations(experiment.fit)[0],
        paged_optimizer=experiment.fit.paged_optimizer,
        deterministic=experiment.fit.deterministic,
    )


def _encoders_wait(wanted: Any) -> bool:
    """Whether what only encodes leaves the card while training: unless the spec says "none" and nothing else."""
    return wanted != "none" and not (isinstance(wanted, spec.Auto) and wanted.choices == ("none",))


def quantizations(fit: spec.Fit) -> tuple[plan.Quantization, ...]:
    """What the base may be held in, the preferred one first."""
    return _open(fit.quantization, ("none", "int8", "nf4"))


def state_bits(experiment: spec.Experiment) -> tuple[plan.StateBits, ...]:
    """What the optimizer's state may be held in, the preferred one first."""
    if not isinstance(experiment.train.optimizer, spec.AdamW):
        return (32,)
    return _open(experiment.fit.optimizer_bits, (32, 8))


def _open(wanted: Any, every: tuple[Any, ...]) -> tuple[Any, ...]:
    """A pinned value; or the choices in the spec's order, or in ours."""
    return (wanted.choices or every) if isinstance(wanted, spec.Auto) else (wanted,)


def _dtype(experiment: spec.Experiment, card: Card) -> plan.Dtype:
    wanted = experiment.fit.dtype
    if isinstance(wanted, str):
        return wanted
    if card.device == "cpu":
        return "fp32"
    return "bf16" if card.bf16 else "fp16"


def _decisions(experiment: spec.Experiment, program: plan.Program, card: Card) -> tuple[plan.Decision, ...]:
    """What was settled without a search and was not written by the user."""
    base, data, train = program.base, program.data, program.train
    per_epoch = -(-data.expected // train.effective_batch)
    epochs = f"{train.steps / per_epoch:g} epochs of {per_epoch} steps"
    said = _why_dtype(experiment.fit, card)
    found = "from its tensors" if base.digest else "as the spec says; its published architecture"
    unit = "sequences" if isinstance(data, plan.Texts) else "samples"
    ends = ", zero terminal SNR" if base.architecture.get("scheduler", {}).get(plan.ZERO_SNR) else ""
    ends += f", clip skip {base.clip_skip}" if base.clip_skip > 1 else ""
    count = f"{plan.samples(data)} {'pictures' if unit == 'samples' else 'samples'}"
    if not any(plan.each_file(data)):
        count = f"assumed: {data.expected} {unit}"
    targets = (
        "the family's usual"
        if isinstance(experiment.adapter.targets, spec.Auto)
        else experiment.adapter.targets
    )
    modules = ", ".join(f"{count} in the {component}" for component, count in program.adapter.modules.items())
    return (
        plan.Decision(
            field="base", value=family(base.family).TITLE, reason=f"{found}; {base.prediction_type}{ends}"
        ),
        plan.Decision(field="data", value=count, reason=data_line(data)),
        plan.Decision(field="adapted modules", value=modules, reason=f"targets {targets}"),
        *(
            plan.Decision(
                field="trained whole", value=", ".join(paths), reason="one weight where the base ties them"
            )
            for paths in program.adapter.modules_to_save.values()
        ),
        *(_of_word(word, program.adapter) for word in program.adapter.words),
        plan.Decision(field="steps", value=str(train.steps), reason=f"{data.expected} {unit}; {epochs}"),
        *epochs_in_steps(experiment, per_epoch),
        plan.Decision(field="dtype", value=program.compute.dtype, reason=said),
        *optimizer_decisions(experiment, program),
        *_exactness(program.compute),
    )


def _of_parts(elsewhere: Files) -> Iterator[plan.Decision]:
    """Which of the files that the spec names was taken for what."""
    if elsewhere:
        said = ", ".join(f"{name}: {place.name}" for name, place in sorted(elsewhere.items()))
        yield plan.Decision(field="base parts", value=said, reason="known by their tensors, not their names")


def _of_word(word: plan.Word, adapter: plan.Adapter) -> plan.Decision:
    """What a word has of its own, and what that costs."""
    count = f"{word.vectors} vector" + ("s" if word.vectors > 1 else "")
    encoders = " and the ".join(adapter.word_embeddings)
    began = f"begun as “{word.initial}”, rate {word.learning_rate:g}; captions are encoded in each step"
    return plan.Decision(field="new word", value=word.word, reason=f"{count} in the {encoders}, {began}")


def _why_dtype(fit: spec.Fit, card: Card) -> str:
    if isinstance(fit.dtype, str):
        return "as the spec says"
    if card.device == "cpu":
        return "every CPU has it; Fit(dtype='bf16') is faster on one with AVX512-BF16 or AMX"
    return f"what {card.name} computes fastest"


def _exactness(compute: plan.Compute) -> Iterator[plan.Decision]:
    """Whether a card promises the same bytes again; a CPU does."""
    if compute.device == "cpu":
        return
    if compute.deterministic:
        why = "fit.deterministic: the run stops at an operator that has no exact form"
        yield plan.Decision(field="same bytes", value="yes", reason=why)
    else:
        why = (
            "attention's backward pass and others may add up in any order; Fit(deterministic=True) forbids it"
        )
        yield plan.Decision(field="same bytes", value="up to the last bits", reason=why)


def data_line(data: plan.Data) -> str:
    """How the data lies in steps."""
    held = f"; {data.held_out:.0%} held out" if data.held_out else ""
    if isinstance(data, plan.Images):
        return buckets_line(data) + held
    how = "packed into" if data.packing else "padded to"
    return f"{how} sequences of {data.length} tokens at most{held}"


def buckets_line(data: plan.Images) -> str:
    """`512×512: 80, 448×576: 20`, most first."""
    counts: dict[tuple[int, int], int] = {}
    for item in data.items:
        counts[item.bucket] = counts.get(item.bucket, 0) + item.repeats
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    shown = ", ".join(f"{w}×{h}: {n}" for (w, h), n in ordered[:4])
    more = f" and {len(ordered) - 4} more buckets" if len(ordered) > 4 else ""
    return f"samples by bucket {shown}{more}" if shown else f"at {data.resolution}×{data.resolution}"


def _place(path: Path, root: Path) -> str:
    """Relative to `root` where it lies inside, else absolute."""
    resolved = path.resolve()
    here = root.resolve()
    return resolved.relative_to(here).as_posix() if resolved.is_relative_to(here) else resolved.as_posix()
