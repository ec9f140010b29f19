"""The neutral form of a text data set: what a language model is trained on, whatever file it came from.

- A `Sample` is a conversation; which of its messages the loss is taken over is said message by message.
- A `Text` is trained on as a whole, every token of it.
- Neither knows a tokenizer or a chat template: those are the base's.
- A sample's digest is over what it says, never over where it was read.
"""

from __future__ import annotations

import hashlib
import json
from typing import Literal, get_args

import attrs

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = get_args(Role)


@attrs.frozen
class Message:
    """One turn. `trained` says whether the loss is taken over its tokens."""

    role: Role
    content: str
    trained: bool


@attrs.frozen
class Sample:
    """A conversation that ends with the assistant's turn, and where it was read: file:line."""

    messages: tuple[Message, ...]
    where: str


@attrs.frozen
class Text:
    """Plain text, trained on as it is, and where it was read: file:line."""

    text: str
    where: str


def digest(sample: Sample | Text) -> str:
    """sha256 over everything but `where`, in hex: two samples that train the same have the same."""
    if isinstance(sample, Text):
        return _sha256(["text", sample.text])
    return _sha256(["messages", [[m.role, m.content, m.trained] for m in sample.messages]])


def content_digest(sample: Sample | Text) -> str:
    """sha256 over what is said by whom, in hex: the same whichever messages are trained."""
    if isinstance(sample, Text):
        return _sha256(["text", sample.text])
    return _sha256(["messages", [[m.role, m.content] for m in sample.messages]])


def _sha256(value: list[object]) -> str:
    """The hash of a value's one JSON text: lengths and borders are part of it, so no two values share a text."""
    return hashlib.sha256(json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode()).hexdigest()
