"""What a run of an experiment writes and shows, with nothing left open; and what kind of data it learns from."""

from __future__ import annotations

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


def evaluation_of(experiment: spec.Experiment) -> plan.Evaluation:
    """What is decided by what is held out; nothing where nothing is. Candidates are the checkpoints it asks for."""
    wanted = experiment.evaluation
    if not holds_out(experiment):
        return plan.Evaluation()
    choose = "best" if isinstance(wanted.choose, spec.Auto) else wanted.choose
    is_off = choose == "last" and not wanted.patience
    every = 0 if is_off else experiment.outputs.save_steps
    return plan.Evaluation(choose=choose, patience=wanted.patience, every=every)


def references_of(experiment: spec.Experiment) -> tuple[str, ...]:
    """The pictures that the contact sheet shows beside the samples."""
    return experiment.samples.references if isinstance(experiment.samples, spec.Samples) else ()


def outputs_of(
    experiment: spec.Experiment, of: Family, places: plan.Places, base_name: str, references: list[str]
) -> plan.Outputs:
    wanted, is_text = experiment.outputs, bool(texts_of(experiment))
    return plan.Outputs(
        name=experiment.name,
        places=places,
        samples=_answers(experiment) if is_text else _samples(experiment, of, references),
        base_name=base_name,
        save_steps=wanted.save_steps,
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


def _samples(experiment: spec.Experiment, of: Family, references: list[str]) -> plan.Samples:
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
        every=experiment.outputs.save_steps if isinstance(samples.every, spec.Auto) else samples.every,
        references=tuple(references),
    )


def _answers(experiment: spec.Experiment) -> plan.Answers:
    wanted = experiment.samples if isinstance(experiment.samples, spec.Answers) else spec.Answers()
    return plan.Answers(
        prompts=wanted.prompts,
        system=wanted.system,
        seed=wanted.seed,
        max_tokens=wanted.max_tokens,
        temperature=float(wanted.temperature),
        every=experiment.outputs.save_steps if isinstance(wanted.every, spec.Auto) else wanted.every,
    )
