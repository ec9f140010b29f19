"""What a language model says by a checkpoint at a weight: its held-out loss, its answers, how much they repeat."""

from __future__ import annotations

from runtime import answers, average, plan
from runtime.evaluation import figures, results, subject
from runtime.evaluation.results import Answer, Row
from runtime.evaluation.subject import Subject


def row(of: Subject, step: int, weight: float) -> Row:
    """The figures of the present weights at a weight; `step` names them. The prompts are the plan's."""
    losses = subject.held_out(of, weight)
    said = _answers(of, weight)
    return Row(
        step=step,
        weight=weight,
        loss=results.of_losses(losses),
        perplexity=losses.interval().perplexity if losses else None,
        repetition=results.figure([one.repetition for one in said]),
        answers=said,
    )


def _answers(of: Subject, weight: float) -> tuple[Answer, ...]:
    """Prompt i is answered with seed + i where the temperature is above 0, as in training."""
    wanted = of.of.outputs.samples
    assert isinstance(wanted, plan.Answers)
    with average.shown(of.trainee), subject.weighed(of, weight):
        texts = [
            answers.answer(of.trainee, of.tokenizers, wanted, prompt, wanted.seed + place)
            for place, prompt in enumerate(wanted.prompts)
        ]
    if of.trainee.stream is not None:
        of.trainee.stream.rest()
    said = zip(wanted.prompts, texts, strict=True)
    return tuple(
        Answer(prompt=prompt, text=text, repetition=figures.repetition(text)) for prompt, text in said
    )
