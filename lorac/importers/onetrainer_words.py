"""OneTrainer's `additional_embeddings`, words with vectors of their own beside the LoRA, as lorac's TextualInversion.

What a word begins as: OneTrainer takes the first tokens of `initial_embedding_text`, as many as it has vectors, and
fills up with that of "*"; so the text that is carried is one of just those tokens
(modules/modelSetup/mixin/ModelSetupEmbeddingMixin.py at 23df383).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import cache
from typing import Any

from lorac.importers.ledger import OFF, CannotCarry, Ledger, Ours, Path, Table, Unless, fitted, is_on, whole
from lorac.spec import Prodigy, TextualInversion
from runtime import names

SECTION = "additional_embeddings"
RATE: Path = ("embedding_learning_rate",)
FIELDS = {"placeholder": "word", "token_count": "vectors", "initial_embedding_text": "initial"}
DEFAULTS = {"placeholder": "<embedding>", "token_count": 1, "initial_embedding_text": "*"}
FILL = "*"

REST: Table = {
    "uuid": Ours("OneTrainer's own mark; lorac's file is called by the word"),
    "train": Ours("trained, as in lorac"),
    "model_name": Ours("empty"),
    "is_output_embedding": Ours("at the text encoder's input, as in lorac"),
    "stop_training_after": Ours("in stop_training_after_unit"),
    "stop_training_after_unit": Unless("lorac trains a word to the end", off=(*OFF, "never")),
}
"""What is said of a word that is carried, beside itself."""


def carry(book: Ledger) -> None:
    """Every word that lorac would train alike; each key of the others is left, with the reason."""
    places = dict.fromkeys(path[1] for path in book.entries if path[0] == SECTION and len(path) == 3)
    taken: list[str] = []
    for place in places:
        own = {str(path[2]): path for path in book.entries if path[:2] == (SECTION, place)}
        said = DEFAULTS | {key: book.entries[path] for key, path in own.items()}
        try:
            values = _values(book, said, taken)
        except CannotCarry as why:
            for path in own.values():
                book.left(path, str(why))
            continue
        part = f"adapter.words.{len(taken)}"
        book.kinds[part] = TextualInversion
        taken.append(names.of_word(values["word"]).lower())
        for key, field in FIELDS.items():
            if key in own:
                book.carry(f"{part}.{field}", values[field], own[key])
            else:
                book.assume(f"{part}.{field}", values[field], f"OneTrainer's default of {key}")
        if values["initial"] != (begins := said["initial_embedding_text"]):
            what = f"{begins!r} became {values['initial']!r}, the tokens that OneTrainer takes"
            book.todo.append(f"adapter.words[{len(taken) - 1}].initial: {what}")
        for key, path in own.items():
            if key in REST:
                book.apply(path, REST[key])
    if RATE in book.entries:
        _rate(book, len(taken), bool(places))


def _rate(book: Ledger, carried: int, are_said: bool) -> None:
    """The rate of all words."""
    value = book.entries[RATE]
    if value is None or not are_said:
        book.ours(RATE, "the train's rate, as in lorac" if value is None else "there are no such words")
    elif not carried:
        book.left(RATE, "none of its words is carried")
    elif book.kinds.get("train.optimizer") is Prodigy:
        book.left(RATE, "Prodigy finds one rate for all weights, a word's with them")
    else:
        for place in range(carried):
            book.carry(f"adapter.words.{place}.learning_rate", value, RATE)


def _values(book: Ledger, said: Mapping[str, Any], taken: Collection[str]) -> dict[str, Any]:
    """A word's fields. Raises CannotCarry where lorac would not train it alike."""
    word = _fitted("word", said["placeholder"])
    if said.get("model_name"):
        raise CannotCarry("it goes on from an embedding's file; lorac begins a word anew")
    if not is_on(said.get("train", True)):
        raise CannotCarry("it is not trained; a word of lorac's is")
    if is_on(said.get("is_output_embedding", False)):
        raise CannotCarry("its vectors stand in the text encoder's output; lorac's in its input")
    if fault := names.wrong(names.of_word(word)):
        raise CannotCarry(f"its word names a file, which {fault}")
    if names.of_word(word).lower() in taken:
        raise CannotCarry(f"{word!r} is another's word already")
    if not _takes_words(book):
        raise CannotCarry(
            "lorac has words with vectors of their own in the CLIP of Stable Diffusion 1, 2, XL"
        )
    tokens, begins = _tokens(), str(said["initial_embedding_text"])
    ids = tokens(begins)
    vectors = _fitted("vectors", len(ids) if said["token_count"] is None else whole(said["token_count"]))
    initial = _first_words(begins, vectors) if len(ids) > vectors else begins
    initial = " ".join([*initial.split(), *[FILL] * (vectors - len(ids))])
    if tokens(initial) != (ids + tokens(FILL) * vectors)[:vectors]:
        raise CannotCarry(f"no words have just the first {vectors} tokens of {begins!r}, which it takes")
    return {"word": word, "vectors": vectors, "initial": initial}


def _first_words(text: str, count: int) -> str:
    """As many words from a text's start as have no more tokens than that."""
    found = text.split()[:count]
    while len(_tokens()(" ".join(found))) > count:
        found.pop()
    return " ".join(found)


def _fitted(field: str, value: Any) -> Any:
    part = "adapter.words.0"
    value, wrong = fitted(f"{part}.{field}", value, {part: TextualInversion})
    if wrong:
        raise CannotCarry(wrong.removeprefix(f"{part}."))
    return value


@cache
def _tokens() -> Callable[[str], list[int]]:
    """The token ids of a text, without those of its start and end."""
    from runtime.families import clip_vocabulary  # transformers come with it

    tokenizer = clip_vocabulary.tokenizer()
    return lambda text: list(tokenizer(text, add_special_tokens=False).input_ids)


def _takes_words(book: Ledger) -> bool:
    """Whether a word can have vectors in the base's text encoders."""
    from runtime.families import family  # torch comes with it

    known = book.settings.get("base.family")
    return known is not None and bool(family(known.value).WORD_FILES)
