"""What a run of an experiment writes and shows, with nothing left open; and what kind of data it learns from."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lorac import spec
from lorac.agree import holds_out, sets_of
from runtime import plan

if TYPE_CHECKING:
    from runtime.families.protocol import Family


def texts_of(experiment: spec.Experiment) -> tuple[Any, ...]:
    """The text files of an experiment; none where it learns from pictures."""
    return tuple(one for one in sets_of(experiment) if not isinstance(one, spec.Images))


def images_of(experiment: spec.Experiment) -> spec.Images:
    """The pictures of an experiment that learns from them."""
    (images,) = sets_of(experiment)
    assert isinstance(images, spec.Images)
    return images


def in_steps(epochs: float, per_epoch: int) -> int:
    """So many epochs in whole steps, rounded up, but not what binary fractions add; 0 is 0."""
    return max(1, math.ceil(round(epochs * per_epoch, 6))) if epochs else 0


def saved_each(experiment: spec.Experiment, per_epoch: int) -> int:
    """Each so many steps there is a checkpoint; 0 is at the end only."""
    return experiment.outputs.save_steps or in_steps(experiment.outputs.save_epochs, per_epoch)


def _drawn_each(experiment: spec.Experiment, wanted: spec.Samples | spec.Answers, per_epoch: int) -> int:
    if wanted.every_epochs is not None:
        return in_steps(wanted.every_epochs, per_epoch)
    return saved_each(experiment, per_epoch) if isinstance(wanted.every, spec.Auto) else wanted.every


def epochs_in_steps(experiment: spec.Experiment, per_epoch: int) -> Iterator[plan.Decision]:
    """What was said in epochs, as the steps that the run counts."""
    for field, epochs in (
        ("outputs.save_steps", experiment.outputs.save_epochs),
        ("samples.every", experiment.samples.every_epochs),
    ):
        if epochs:
            reason = f"{epochs:g} epochs of {per_epoch} steps"
            yield plan.Decision(field=field, value=str(in_steps(epochs, per_epoch)), reason=reason)


def evaluation_of(experiment: spec.Experiment, per_epoch: int) -> plan.Evaluation:
    """What is decided by what is held out; nothing where nothing is. Candidates are the checkpoints it asks for."""
    wanted = experiment.evaluation
    if not holds_out(experiment):
        return plan.Evaluation()
    choose = "best" if isinstance(wanted.choose, spec.Auto) else wanted.choose
    is_off = choose == "last" and not wanted.patience
    every = 0 if is_off else saved_each(experiment, per_epoch)
    return plan.Evaluation(choose=choose, patience=wanted.patience, every=every)


def references_of(experiment: spec.Experiment) -> tuple[str, ...]:
    """The pictures that the contact sheet shows beside the samples."""
    return experiment.samples.references if isinstance(experiment.samples, spec.Samples) else ()


def outputs_of(
    experiment: spec.Experiment,
    of: Family,
    places: plan.Places,
    base_name: str,
    references: list[str],
    per_epoch: int,
) -> plan.Outputs:
    wanted, is_text = experiment.outputs, bool(texts_of(experiment))
    return plan.Outputs(
        name=experiment.name,
        places=places,
        samples=_answers(experiment, per_epoch)
        if is_text
        else _samples(experiment, of, references, per_epoch),
        base_name=base_name,
        save_steps=saved_each(experiment, per_epoch),
        keep_checkpoints=wanted.keep_checkpoints,
        dtype=wanted.dtype,
        trigger="" if is_text else images_of(experiment).trigger,
        preferred_weight=float(wanted.preferred_weight),
        description=wanted.description,
        author=wanted.author,
        license=wanted.license,
        notes=wanted.notes,
        negative_text=wanted.negative_text,
        tags=wanted.tags,
        gguf=wanted.gguf,
    )


def _samples(experiment: spec.Experiment, of: Family, references: list[str], per_epoch: int) -> plan.Samples:
    samples, side = experiment.samples, images_of(experiment).resolution
    assert isinstance(samples, spec.Samples)
    return plan.Samples(
        prompts=samples.prompts,
        negative_prompt=samples.negative_prompt,
        seed=samples.seed,
        steps=of.SAMPLING["steps"] if isinstance(samples.steps, spec.Auto) else samples.steps,
        guidance=float(
            of.SAMPLING["guidance"] if isinstance(samples.guidance, spec.Auto) else samples.guidance
        ),
        width=side if isinstance(samples.width, spec.Auto) else samples.width,
        height=side if isinstance(samples.height, spec.Auto) else samples.height,
        weight=float(samples.weight),
        every=_drawn_each(experiment, samples, per_epoch),
        references=tuple(references),
    )


def _answers(experiment: spec.Experiment, per_epoch: int) -> plan.Answers:
    wanted = experiment.samples if isinstance(experiment.samples, spec.Answers) else spec.Answers()
    return plan.Answers(
        prompts=wanted.prompts,
        system=wanted.system,
        seed=wanted.seed,
        max_tokens=wanted.max_tokens,
        temperature=float(wanted.temperature),
        every=_drawn_each(experiment, wanted, per_epoch),
    )
