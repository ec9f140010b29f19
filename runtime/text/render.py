"""A conversation, or plain text, as token ids with the mask of the tokens that are trained.

- The whole text is tokenised once, as inference does, without a second BOS: the template has written its own.
- A token belongs to where its first character is; offsets come from the tokenizer.
- Where the mask lies in the text is `runtime.text.spans`' business.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs
from transformers import PreTrainedTokenizerBase

from runtime.errors import InputError, Problem
from runtime.text.spans import Chat, Message, spoken

_TEMPLATES = Path(__file__).parent / "templates"
NAMED = ("chatml", "gemma", "glm4", "llama3", "mistral", "phi3")
"""Templates for bases that have none of their own."""

_SPACE = ("Ġ", "▁")
"""How byte-level and SentencePiece vocabularies write a leading space."""


@attrs.frozen(kw_only=True)
class Tokens:
    """One sample: its token ids, and for each whether the model is trained to emit it. Of one length."""

    ids: tuple[int, ...]
    trained: tuple[bool, ...]


def named_template(name: str) -> str:
    """The template of this name. Raises InputError."""
    if name not in NAMED:
        raise InputError(
            Problem("chat template", f"no template is named {name!r}", f"use {', '.join(NAMED)}")
        )
    return (_TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8").rstrip("\n")


def conversation(
    tokenizer: PreTrainedTokenizerBase, chat: Chat, messages: Sequence[Message], trained: Sequence[bool]
) -> Tokens:
    """The conversation through its template (`spans.chat_of`); `trained` has a flag for each message.

    Trained are the assistant's turns whose flag is true, each with its end-of-turn token, and EOS behind the last
    one where the template closes it with no special token. Raises InputError.
    """
    said = spoken(chat, messages, trained)
    ids, mask = [], []
    for token, begin in _encode(tokenizer, said.text):
        ids.append(token)
        mask.append(any(start <= begin < end for start, end in said.spans))
    if said.open_ended and tokenizer.eos_token_id is not None:
        ids.append(int(tokenizer.eos_token_id))
        mask.append(True)
    return Tokens(ids=tuple(ids), trained=tuple(mask))


def plain(tokenizer: PreTrainedTokenizerBase, text: str) -> Tokens:
    """Plain text, all of it trained, between the tokenizer's own BOS (where it has one) and one EOS."""
    ids = [int(token) for token in tokenizer(text)["input_ids"]]
    if tokenizer.eos_token_id is not None and (not ids or ids[-1] != tokenizer.eos_token_id):
        ids.append(int(tokenizer.eos_token_id))
    return Tokens(ids=tuple(ids), trained=(True,) * len(ids))


def cut(sample: Tokens, length: int) -> Tokens | None:
    """A sample's first `length` tokens; None where none of them is left to learn."""
    short = Tokens(ids=sample.ids[:length], trained=sample.trained[:length])
    return (
        short if any(short.trained[1:]) else None
    )  # nothing comes before the first token to predict it from


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[tuple[int, int]]:
    """Each token with the place of its first character.

    Byte-level tokenizers may report a token without its leading space (`trim_offsets`), which is its own all the
    same; what a special token swallowed behind it (Phi-3's newlines) belongs to no token.
    """
    if not tokenizer.is_fast:
        what = "the base's tokenizer does not say which characters a token stands for"
        raise InputError(Problem("tokenizer", what, "use a base with a tokenizer.json"))
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    names = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    found = []
    reached = 0
    for token, name, (first, last) in zip(
        encoded["input_ids"], names, encoded["offset_mapping"], strict=True
    ):
        begin = (
            min(first, reached + len(text[reached:first].rstrip(" "))) if name.startswith(_SPACE) else first
        )
        found.append((token, begin))
        reached = max(reached, last)
    return found
