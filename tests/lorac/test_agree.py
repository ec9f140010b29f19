"""Fields that must agree: what text and pictures each take, and what they refuse of the other's."""

from __future__ import annotations

from typing import Any

import pytest

from lorac import (
    Answers,
    Auto,
    Evaluation,
    Experiment,
    Fit,
    Images,
    Instructions,
    LoRA,
    Outputs,
    Prodigy,
    Samples,
    Sequences,
    Text,
    TextualInversion,
    Train,
)
from lorac.resolve_outputs import evaluation_of, images_of, texts_of
from runtime import plan
from runtime.errors import SpecError

TEXT = Instructions("a.jsonl")


def refused(**parts: Any) -> list[str]:
    """What each problem says, without where it is."""
    with pytest.raises(SpecError) as found:
        Experiment(name="a", base="base", **parts)
    return [problem.what for problem in found.value.problems]


@pytest.mark.parametrize(
    ("parts", "field"),
    [
        ({"train": Train(snr_gamma=5)}, "train.snr_gamma"),
        ({"train": Train(noise_offset=0.1)}, "train.noise_offset"),
        ({"train": Train(text_encoder_learning_rate=1e-5)}, "train.text_encoder_learning_rate"),
        ({"adapter": LoRA(text_encoder=True)}, "adapter.text_encoder"),
        ({"adapter": LoRA(words=(TextualInversion("crest"),))}, "adapter.words"),
    ],
)
@pytest.mark.parametrize("data", [TEXT, (TEXT, Text("b.txt"))])
def test_what_only_a_denoiser_has_is_refused_beside_text(
    data: Any, parts: dict[str, Any], field: str
) -> None:
    assert refused(data=data, **parts) == [f"{field} is set, and the data are text: it is for pictures only"]


@pytest.mark.parametrize(
    ("beside", "told"),
    [
        ({}, "fit.shard is True, and fit.processes is 1: there is nobody to split the base with"),
        (
            {"processes": 2, "quantization": "nf4"},
            "fit.quantization is given, and fit.shard splits the base's weights as they are",
        ),
        (
            {"processes": 2, "offload": "blocks"},
            "fit.offload is 'blocks', and fit.shard has the blocks wait on the other cards",
        ),
    ],
)
def test_a_base_is_split_among_several_and_as_it_is(beside: dict[str, Any], told: str) -> None:
    with pytest.raises(SpecError) as found:
        Fit(shard=True, **beside)
    assert [problem.what for problem in found.value.problems] == [told]


def test_all_of_it_is_told_at_once() -> None:
    train = Train(snr_gamma=5, noise_offset=0.1)
    said = refused(data=TEXT, train=train, adapter=LoRA(text_encoder=True))

    assert sorted(line.split()[0] for line in said) == [
        "adapter.text_encoder",
        "train.noise_offset",
        "train.snr_gamma",
    ]


def test_a_default_that_is_written_out_is_no_disagreement() -> None:
    train = Train(snr_gamma=None, noise_offset=0.0, text_encoder_learning_rate=Auto())

    made = Experiment(name="a", base="base", data=TEXT, train=train, adapter=LoRA(text_encoder=False))

    assert made.train == Train()


def test_pictures_take_what_a_denoiser_has() -> None:
    train = Train(snr_gamma=5, noise_offset=0.1, text_encoder_learning_rate=1e-5)

    made = Experiment(name="a", base="base", data=Images("a"), train=train, adapter=LoRA(text_encoder=True))

    assert (made.train, made.adapter.text_encoder) == (train, True)


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"data": ()}, "data is empty"),
        ({"data": (Images("a"), TEXT)}, "data has pictures beside other data"),
        ({"data": (Images("a"), Images("b"))}, "data has pictures beside other data"),
        ({"data": Images("a"), "samples": Answers(prompts=("Hi",))}, "samples are Answers(…)"),
        ({"data": Images("a"), "sequences": Sequences(length=64)}, "sequences is given"),
        ({"data": TEXT, "samples": Samples(prompts=("a cat",))}, "samples are Samples(…)"),
    ],
)
def test_pictures_and_text_are_not_mixed(parts: dict[str, Any], told: str) -> None:
    (said,) = refused(**parts)

    assert said.startswith(told)


def test_pictures_in_a_tuple_of_one_are_pictures() -> None:
    made = Experiment(name="a", base="base", data=(Images("a"),))

    assert (texts_of(made), images_of(made)) == ((), Images("a"))


@pytest.mark.parametrize(
    "held", [{"data": Images("a", held_out=0.1)}, {"data": TEXT, "sequences": Sequences(held_out=0.1)}]
)
def test_the_best_checkpoint_is_exported_where_something_is_held_out_and_nothing_else_is_said(
    held: dict[str, Any],
) -> None:
    outputs = Outputs(save_steps=5)
    made = Experiment(name="a", base="base", outputs=outputs, **held)
    last = Experiment(name="a", base="base", outputs=outputs, evaluation=Evaluation(choose="last"), **held)
    patient = Experiment(
        name="a", base="base", outputs=outputs, evaluation=Evaluation(choose="last", patience=3), **held
    )

    assert evaluation_of(made, 7) == plan.Evaluation(choose="best", every=5)
    assert evaluation_of(last, 7) == plan.Evaluation()
    assert evaluation_of(patient, 7) == plan.Evaluation(patience=3, every=5)
    assert evaluation_of(Experiment(name="a", base="base", data=Images("a")), 7) == plan.Evaluation()


def test_what_is_decided_by_what_is_held_out_needs_it_and_patience_needs_checkpoints() -> None:
    wanted = Evaluation(choose="best", patience=2)

    assert refused(data=Images("a"), evaluation=wanted) == [
        "evaluation.choose needs what is held out, and data.held_out is 0",
        "evaluation.patience needs what is held out, and data.held_out is 0",
    ]
    assert refused(data=TEXT, evaluation=Evaluation(patience=2)) == [
        "evaluation.patience needs what is held out, and sequences.held_out is 0"
    ]
    assert refused(data=Images("a", held_out=0.1), evaluation=wanted) == [
        "evaluation.patience counts checkpoints, and outputs.save_steps is 0: there is one, at the end"
    ]


def test_each_new_word_has_a_file_of_its_own() -> None:
    with pytest.raises(SpecError) as found:
        LoRA(words=(TextualInversion("crest"), TextualInversion("<Crest>"), TextualInversion("con")))

    assert [problem.what for problem in found.value.problems] == [
        "adapter.words.word is a word that has a file already, crest.safetensors, got '<Crest>'",
        "adapter.words.word names a file, which is the name of a device on Windows, got 'con'",
    ]


@pytest.mark.parametrize("word", ["two words", "crest.", "crest_", "../crest", "<crest", "1st", ""])
def test_a_new_word_is_one_word_that_can_be_a_file_s_name(word: str) -> None:
    with pytest.raises(SpecError, match="a word such as"):
        TextualInversion(word)


def test_with_prodigy_a_new_word_has_no_rate_of_its_own() -> None:
    def parts(rate: Any) -> dict[str, Any]:
        word = TextualInversion("crest", learning_rate=rate)
        return {"data": Images("a"), "adapter": LoRA(words=(word,)), "train": Train(optimizer=Prodigy())}

    (said,) = refused(**parts(1e-3))
    assert said.startswith("adapter.words.learning_rate is another than train.learning_rate")
    Experiment(name="a", base="base", **parts(1))
    Experiment(name="a", base="base", **parts(Auto()))


def test_a_text_encoder_in_which_a_word_learns_does_not_wait() -> None:
    fit, adapter = Fit(offload="text_encoder"), LoRA(words=(TextualInversion("crest"),))

    assert refused(data=Images("a"), adapter=adapter, fit=fit) == [
        "fit.offload is 'text_encoder', and adapter.words has it trained: it is used in every step"
    ]


@pytest.mark.parametrize(
    ("train", "told"),
    [
        ({"cycles": 2}, "train.cycles is for cosine_with_restarts, and train.scheduler is 'cosine'"),
        (
            {"scheduler": "rex", "decay_ratio": 0.2},
            "train.decay_ratio is for warmup_stable_decay, and train.scheduler is 'rex'",
        ),
        (
            {"scheduler": "constant", "min_ratio": 0.1},
            "train.min_ratio is set, and train.scheduler 'constant' does not fall",
        ),
        (
            {"scheduler": "warmup_stable_decay"},
            "train.scheduler is 'warmup_stable_decay', and nothing says when it falls",
        ),
        (
            {"scheduler": "warmup_stable_decay", "decay_steps": 5, "decay_ratio": 0.2},
            "train.decay_ratio and train.decay_steps are both given: 0.2 and 5",
        ),
        (
            {"scheduler": "warmup_stable_decay", "decay_steps": 6, "warmup_steps": 5, "steps": 10},
            "train.decay_steps and train.warmup_steps are more than train.steps 10",
        ),
    ],
)
def test_a_number_of_a_curve_is_said_beside_that_curve(train: dict[str, Any], told: str) -> None:
    with pytest.raises(SpecError) as found:
        Train(**train)

    assert [problem.what for problem in found.value.problems] == [told]


def test_how_often_is_said_in_steps_or_in_epochs() -> None:
    with pytest.raises(SpecError, match=r"save_epochs and outputs.save_steps are both given: 1 and 10"):
        Outputs(save_steps=10, save_epochs=1)
    with pytest.raises(SpecError, match=r"every_epochs and samples.every are both given: 0.5 and 10"):
        Samples(prompts=("a",), every=10, every_epochs=0.5)
    assert refused(data=Images("a"), samples=Samples(every_epochs=1)) == [
        "samples.every_epochs is set, but samples.prompts is empty"
    ]


def test_checkpoints_each_so_many_epochs_can_be_waited_for() -> None:
    made = Experiment(
        name="a",
        base="base",
        data=Images("a", held_out=0.1),
        outputs=Outputs(save_epochs=0.5),
        evaluation=Evaluation(patience=2),
    )

    assert evaluation_of(made, 7) == plan.Evaluation(choose="best", patience=2, every=4)
