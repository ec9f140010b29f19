"""Words with vectors of their own, planned: what the plan says of them, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest

from lorac import Base, Experiment, Fit, Images, LoHa, LoRA, TextualInversion
from lorac.estimate import cards
from lorac.resolve import Resolved, resolve
from runtime import plan
from runtime.errors import PlanError, SpecError
from runtime.safeio import strict_json
from tests.runtime.plans import estimate

WORD = TextualInversion("<noise>", initial="a red", vectors=2, learning_rate=1e-3)


def resolved(base: Any, data: Path, root: Path, adapter: Any, **images: Any) -> Resolved:
    experiment = Experiment(
        name="tiny",
        base=base,
        data=Images(str(data), resolution=64, **images),
        adapter=adapter,
        fit=Fit(card="cpu"),
    )
    return resolve(experiment, root, root, cards.find("cpu"), True)


def plain(base: Path, data: Path, root: Path) -> Resolved:
    return resolved(str(base), data, root, LoRA(rank=2))


TRIGGER = {"trigger": "<noise>", "prepend_trigger": True}


def test_the_plan_names_it_holds_it_and_has_another_hash(
    tiny_base: Path, tiny_data: Path, tmp_path: Path
) -> None:
    made = resolved(str(tiny_base), tiny_data, tmp_path, LoRA(rank=2, words=(WORD,)), **TRIGGER)
    adapter = made.program.adapter

    assert adapter.words == (plan.Word(word="<noise>", initial="a red", vectors=2, learning_rate=1e-3),)
    assert adapter.word_embeddings == {"text_encoder": "embeddings.token_embedding"}
    assert [(one.value, one.reason) for one in made.decisions if one.field == "new word"] == [
        (
            "<noise>",
            "2 vectors in the text_encoder, begun as “a red”, rate 0.001; captions are encoded in each step",
        )
    ]
    assert "text_encoder" not in made.program.compute.offloaded
    hashes = {plan.hash_program(one.program) for one in (made, plain(tiny_base, tiny_data, tmp_path))}
    assert len(hashes) == 2


def test_left_open_it_begins_as_itself_at_the_train_s_rate(
    tiny_base: Path, tiny_data: Path, tmp_path: Path
) -> None:
    made = resolved(str(tiny_base), tiny_data, tmp_path, LoHa(rank=2, words=(TextualInversion("style"),)))

    assert made.program.adapter.words == (
        plan.Word(word="style", initial="style", vectors=1, learning_rate=1e-4),
    )


def test_without_one_nothing_is_said_of_it(tiny_base: Path, tiny_data: Path, tmp_path: Path) -> None:
    made = plain(tiny_base, tiny_data, tmp_path)

    assert (made.program.adapter.words, made.program.adapter.word_embeddings) == ((), {})
    assert "text_encoder" in made.program.compute.offloaded


def test_a_word_that_no_caption_has_is_refused(tiny_base: Path, tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as raised:
        resolved(str(tiny_base), tiny_data, tmp_path, LoRA(rank=2, words=(TextualInversion("<noise>"),)))

    (said,) = raised.value.problems
    assert said.what == "adapter.words: no caption has '<noise>' as a word"
    assert said.hint == "put it into the captions, or set Images(trigger=…, prepend_trigger=True)"


@pytest.mark.parametrize("family", ["flux1", "sd3"])
def test_a_family_without_such_words_says_so(family: str, tiny_data: Path, tmp_path: Path) -> None:
    base = Base("not-here", family=family)
    with pytest.raises(SpecError) as raised:
        resolved(base, tiny_data, tmp_path, LoRA(rank=2, words=(TextualInversion("noise"),)))

    (said,) = raised.value.problems
    assert said.what.startswith("adapter.words: a ")
    assert said.what.endswith("has no text encoder in which a word could learn")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"word": "../noise"}, "cannot be a word with a file of its own"),
        ({"vectors": 0}, "must have a vector"),
        ({"learning_rate": -1.0}, "must have a vector, a rate of 0 or more"),
    ],
)
def test_a_plan_that_says_otherwise_is_not_read(
    tiny_base: Path, tiny_data: Path, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    made = resolved(str(tiny_base), tiny_data, tmp_path, LoRA(rank=2, words=(WORD,)), **TRIGGER)
    adapter = attrs.evolve(
        made.program.adapter, words=(attrs.evolve(made.program.adapter.words[0], **change),)
    )
    changed = plan.make(attrs.evolve(made.program, adapter=adapter), made.outputs, estimate())

    with pytest.raises(PlanError, match=said):
        plan.loads(strict_json.canonical(plan.unstructure(changed)))
