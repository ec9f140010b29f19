"""Where in a rendered conversation the assistant speaks: the characters that a model must learn to emit.

- Found from the template itself, by rendering: no family's markers are written down here.
- A turn begins where the generation prompt ends: `messages[:i]` rendered with `add_generation_prompt` is what a
  model is given before it speaks. Where that is no prefix of the whole text (a template that drops earlier
  reasoning, moves the system message, or opens a `<think>` of its own), the turn begins where its content does.
- A turn's content ends where the text after a marker put in its place begins, and the turn with the end-of-turn
  token that the template writes behind it. The newline that follows it is the template's, not the model's.
- A template with `{% generation %}` tags says all of that itself; only the end-of-turn token is added where the
  tags leave it out, or nothing would teach the model to stop.
- Templates are strangers' programs: they run in transformers' sandbox, and today's date is the same on every day.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from runtime.errors import InputError, Problem

Message = Mapping[str, Any]
"""`role` and `content`, and whatever else the template reads."""

TODAY = datetime.date(2024, 7, 26)
"""What `strftime_now` says in every template, in training and in answers: the date that Llama 3.1's falls back on."""

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_DATE = re.compile(r"strftime_now\(\s*(?P<quote>['\"])(?P<format>.*?)(?P=quote)\s*\)")
_ASKS_DATE = re.compile(r"\bstrftime_now\s*(?!is\b)\S")
_DATED = "{% macro strftime_now("
_HINT = "choose a template by name: chatml, llama3, mistral, gemma, phi3 or glm4"


@attrs.frozen(kw_only=True)
class Chat:
    """A template with what it reads of its tokenizer. `closing` matches a special token, and space before it."""

    source: str
    tokens: dict[str, Any]
    closing: re.Pattern[str]


@attrs.frozen(kw_only=True)
class Spoken:
    """A rendered conversation; `spans` are the trained [start, end) in characters, in order.

    `open_ended`: it ends with a trained turn that no special token closes, so the tokenizer's EOS has to.
    """

    text: str
    spans: tuple[tuple[int, int], ...]
    open_ended: bool


def chat_of(tokenizer: PreTrainedTokenizerBase, source: str | None = None) -> Chat:
    """The template `source`, or the tokenizer's own. Raises InputError where it has none."""
    if source is None:
        if not tokenizer.chat_template:
            raise InputError(Problem("chat template", "the base has none", _HINT))
        source = tokenizer.get_chat_template()
    special = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    special |= {tokenizer.eos_token} - {None}
    longest_first = sorted(special, key=lambda token: (-len(token), token))
    closing = re.compile(rf"\s*(?:{'|'.join(map(re.escape, longest_first))})" if special else r"(?!)")
    tokens = {
        name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)
    }
    return Chat(source=dated(source), tokens=tokens, closing=closing)


def spoken(chat: Chat, messages: Sequence[Message], trained: Sequence[bool]) -> Spoken:
    """The conversation as text, with the spans of the assistant turns whose `trained` is true.

    Raises InputError where the template fails, leaves out a message, or hides where a turn is.
    """
    text, marked = _render(chat, messages)
    _check_nothing_is_lost(chat, messages, text)
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if marked is not None and len(marked) != len(turns):
        raise _fault(f"marks {len(marked)} turns by its generation tags where the assistant has {len(turns)}")
    spans = []
    for order, turn in enumerate(turns):
        if trained[turn]:
            start, end = marked[order] if marked is not None else _located(chat, messages, turn, text)
            spans.append((start, _closed(chat, messages, turn, text, end)))
    open_ended = False
    if turns and turns[-1] == len(messages) - 1 and trained[turns[-1]]:
        start, end = spans[-1]
        closed = any(
            match.end() == len(text[:end].rstrip()) for match in chat.closing.finditer(text, start, end)
        )
        open_ended = not closed
    return Spoken(text=text, spans=tuple(spans), open_ended=open_ended)


def _located(chat: Chat, messages: Sequence[Message], turn: int, text: str) -> tuple[int, int]:
    """Where a turn begins, and where its content (or, where that is not to be found, the turn) ends."""
    around = _around(chat, messages, turn, text)
    before = messages[:turn]
    prompt = _try(chat, before, prompt=True) if before else None
    head = around[0] if around is not None and text.startswith(around[0]) else None
    start: int | None = None
    if prompt is not None and text.startswith(prompt):
        # A template that knows no generation prompt leaves the turn's header behind it, unless it has none.
        speaks = prompt != _try(chat, before)
        if speaks or (head is not None and not head[len(prompt) :].strip()):
            start = len(prompt)
    if start is None and head is not None:
        start = len(head)
    end: int | None = None
    if around is not None and text.endswith(around[1]):
        end = len(text) - len(around[1])
    else:
        upto = _try(chat, messages[: turn + 1])
        if upto is not None and text.startswith(upto):
            end = len(upto.rstrip())
    if start is None or end is None or start > end:
        what = "start" if start is None else "end"
        raise _fault(f"does not show where the assistant's turn (message {turn + 1}) {what}s")
    return start, end


def _closed(chat: Chat, messages: Sequence[Message], turn: int, text: str, end: int) -> int:
    """`end`, moved behind the end-of-turn token: what the template writes after a turn that is the last."""
    around = _around(chat, messages[: turn + 1], turn, text)
    if around is None:
        return end
    special = chat.closing.match(around[1])
    closing = special.group() if special else around[1].rstrip()
    return end + len(closing) if text.startswith(closing, end) else end


def _around(chat: Chat, messages: Sequence[Message], turn: int, text: str) -> tuple[str, str] | None:
    """The text before and after a message's content, by rendering a marker in its place."""
    marker = "markerOfContent"
    while marker in text:
        marker += "X"
    swapped = [*messages[:turn], {**messages[turn], "content": marker}, *messages[turn + 1 :]]
    probe = _try(chat, swapped)
    if probe is None or probe.count(marker) != 1:
        return None
    head, _, tail = probe.partition(marker)
    return head, tail


def _check_nothing_is_lost(chat: Chat, messages: Sequence[Message], text: str) -> None:
    """A message that never reaches the model teaches it to answer without: Mistral 0.3's system message."""
    for place, message in enumerate(messages):
        content = message.get("content")
        if not isinstance(content, str) or not content.strip() or content.strip() in text:
            continue
        if _around(chat, messages, place, text) is None:
            raise _fault(f"leaves out message {place + 1}, of role {message['role']}")


def _render(
    chat: Chat, messages: Sequence[Message], prompt: bool = False
) -> tuple[str, list[tuple[int, int]] | None]:
    """The text, and the spans that generation tags mark where the template has them."""
    tagged = _GENERATION.search(chat.source) is not None
    try:
        rendered: Any = render_jinja_template(
            conversations=[[{k: v for k, v in message.items() if v is not None} for message in messages]],
            chat_template=chat.source,
            add_generation_prompt=prompt,
            return_assistant_tokens_mask=tagged,
            **chat.tokens,
        )
    except Exception as error:  # whatever a stranger's program raises is its own fault, told in a line
        raise _fault(f"fails: {' '.join(str(error).split()) or type(error).__name__}") from None
    texts, spans = rendered
    return texts[0], spans[0] if tagged else None


def _try(chat: Chat, messages: Sequence[Message], prompt: bool = False) -> str | None:
    """The text, or None where the template takes no such conversation."""
    try:
        return _render(chat, messages, prompt)[0]
    except InputError:
        return None


def dated(source: str) -> str:
    """The template with `strftime_now` shadowed by a macro, so that it renders alike on every day: it is what a plan
    keeps. Once dated, it stays as it is.

    Raises InputError for a date in a format that is not written out: what it says would change from day to day.
    """
    formats = {match["format"] for match in _DATE.finditer(source)}
    if source.startswith(_DATED) or (not formats and not _ASKS_DATE.search(source)):
        return source
    if _ASKS_DATE.search(_DATE.sub("", source)):
        raise _fault(
            "asks for today's date in a format that is not written out, and would differ from day to day"
        )
    table = json.dumps({given: TODAY.strftime(given) for given in sorted(formats)})
    return f"{_DATED}format) %}}{{{{ {table}[format] }}}}{{% endmacro +%}}{source}"


def _fault(what: str) -> InputError:
    return InputError(Problem("chat template", what, _HINT))
