"""OneTrainer's words with vectors of their own: carried where lorac trains them alike, else left with the reason."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest

from lorac import Auto, TextualInversion
from tests.lorac.importers.test_trainers import left, made

WORD = {"placeholder": "<crest>", "token_count": 2, "initial_embedding_text": "gold emblem", "uuid": "a-b"}


def with_words(*words: dict[str, Any], **others: Any) -> dict[str, str]:
    """OneTrainer's config with these additional embeddings."""
    more = {"additional_embeddings": [*words], **others}
    return {'"batch_size": 4': f'"batch_size": 4, {json.dumps(more)[1:-1]}'}


def test_onetrainers_words_with_vectors_are_carried_with_their_rate(convert: Any) -> None:
    rated = convert("onetrainer", **with_words(WORD, {"train": True}, embedding_learning_rate=1e-3))
    plain = convert("onetrainer", **with_words(WORD | {"train": True, "stop_training_after_unit": "NEVER"}))

    crest = TextualInversion("<crest>", initial="gold emblem", vectors=2, learning_rate=1e-3)
    assert made(rated).adapter.words == (
        crest,
        TextualInversion("<embedding>", initial="*", learning_rate=1e-3),
    )
    assert made(plain).adapter.words == (attrs.evolve(crest, learning_rate=Auto()),)
    assert not [key for key in left(plain) if "embedding" in key]


@pytest.mark.parametrize(
    ("said", "initial", "vectors"),
    [
        ({"token_count": 1}, "gold", 1),
        ({"token_count": 4}, "gold emblem * *", 4),
        ({"token_count": None}, "gold emblem", 2),
    ],
)
def test_onetrainers_word_begins_as_the_tokens_that_it_took(
    convert: Any, said: dict[str, Any], initial: str, vectors: int
) -> None:
    draft = convert("onetrainer", **with_words(WORD | said))

    (word,) = made(draft).adapter.words
    assert (word.initial, word.vectors) == (initial, vectors)
    changed = f"adapter.words[0].initial: 'gold emblem' became {initial!r}"
    assert any(changed in line for line in draft.todo) == (initial != "gold emblem")


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"placeholder": "[a crest]"}, "must be a word"),
        ({"model_name": "crest.safetensors"}, "begins a word anew"),
        ({"train": False}, "is not trained"),
        ({"is_output_embedding": True}, "in the text encoder's output"),
        ({"token_count": 100}, "vectors must be"),
        ({"token_count": 1.5}, "is not a whole number"),
        ({"token_count": 1, "initial_embedding_text": "heraldry"}, "no words have just the first 1 tokens"),
    ],
)
def test_onetrainers_words_that_lorac_would_train_otherwise_are_left_with_the_reason(
    convert: Any, said: dict[str, Any], why: str
) -> None:
    draft = convert("onetrainer", **with_words(WORD | said, WORD, embedding_learning_rate=1e-3))

    assert [word.word for word in made(draft).adapter.words] == ["<crest>"]
    for key in ("placeholder", "uuid"):
        assert why in left(draft)[f"additional_embeddings[0].{key}"]


def test_onetrainers_words_are_left_where_lorac_has_none_or_one_rate(convert: Any) -> None:
    rate = {"embedding_learning_rate": 1e-3}
    flux = convert("onetrainer", **with_words(WORD, **rate), **{"STABLE_DIFFUSION_15": "FLUX_DEV_1"})
    twice = convert("onetrainer", **with_words(WORD, WORD))
    prodigy = convert("onetrainer", **with_words(WORD, **rate), **{"ADAMW": "PRODIGY"})

    assert made(flux).adapter.words == ()
    assert left(flux)["embedding_learning_rate"] == "none of its words is carried"
    assert "another's word already" in left(twice)["additional_embeddings[1].uuid"]
    assert made(prodigy).adapter.words[0].learning_rate == Auto()
    assert "Prodigy" in left(prodigy)["embedding_learning_rate"]
