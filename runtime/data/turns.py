"""The messages of a row: read from a list of objects and checked, with everything that is wrong told.

- OpenAI's keys are role and content, ShareGPT's from and value; `weight` 0 beside them takes a message out of the loss.
- Roles: system at most once and first, then user and assistant in turn, tools' answers between two of the assistant's
  messages, the assistant last; at least one message is trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from runtime.data.samples import ROLES, Message, Role

Wrongs = list[tuple[str, str]]
"""What is wrong with a row, and a hint; where is the row's place."""

SPEAKERS: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
}
"""ShareGPT's `from` -> role."""

FOLLOWS: dict[Role | None, tuple[Role, ...]] = {
    None: ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("tool", "assistant"),
}
"""Which roles may follow one; None is the start."""


def read(
    value: Any,
    name: str,
    wrongs: Wrongs,
    keys: tuple[str, str] = ("role", "content"),
    roles: Mapping[str, Role] | None = None,
) -> list[Message]:
    """The messages of a list of objects. Where `wrongs` grew, what comes back is not to be used."""
    roles = roles or {role: role for role in ROLES}
    who, what = keys
    shown = f"[{{{who}, {what}}}, …]"
    if not isinstance(value, list):
        hint = "save the set as .jsonl, which can hold lists" if isinstance(value, str) else ""
        wrongs.append((f"`{name}` must be a list of messages {shown}, got {kind_of(value)}", hint))
        return []
    if not value:
        wrongs.append((f"`{name}` has no messages", "remove the row"))
    messages = (_message(item, f"{name}[{index}]", wrongs, keys, roles) for index, item in enumerate(value))
    return [message for message in messages if message]


def check(messages: Iterable[Message], wrongs: Wrongs) -> None:
    """The rules about roles, over a conversation whose messages are each right."""
    before: Role | None = None
    is_learned_from = False
    for number, message in enumerate(messages, start=1):
        if message.role not in FOLLOWS[before]:
            after = f"follows {before}'s" if before else "comes first"
            what = f"message {number} is {message.role}'s and {after}; {' or '.join(FOLLOWS[before])} is wanted there"
            wrongs.append((what, "make user and assistant take turns, the system's message first"))
        before = message.role
        is_learned_from = is_learned_from or message.trained
    if before != "assistant":
        wrongs.append(
            (f"the last message is {before}'s; the assistant's is wanted", "end with the answer to learn")
        )
    if not is_learned_from:
        wrongs.append(("no message of the assistant's is to be learned: all are empty or have weight 0", ""))


def text_of(
    value: Any, name: str, wrongs: Wrongs, *, may_be_empty: bool = False, wanted: str = "text"
) -> str:
    """A text that is not blank unless it may be; "" with a word on what is wrong with it."""
    if not isinstance(value, str):
        wrongs.append((f"{name} must be {wanted}, got {kind_of(value)}", ""))
    elif "\0" in value:
        wrongs.append((f"{name} has a NUL character", "remove it"))
    elif not value.strip() and not may_be_empty:
        wrongs.append((f"{name} is empty", "fill it in, or remove the row"))
    else:
        return value
    return ""


def kind_of(value: Any) -> str:
    """What a value is, in JSON's words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return f"the number {value}"
    names: dict[type, str] = {str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)


def _message(
    item: Any, place: str, wrongs: Wrongs, keys: tuple[str, str], roles: Mapping[str, Role]
) -> Message | None:
    """One message, None where it has no role that is known."""
    who, what = keys
    if not isinstance(item, dict):
        wrongs.append((f"`{place}` must be an object {{{who}, {what}}}, got {kind_of(item)}", ""))
        return None
    given = {key: part for key, part in item.items() if part is not None}
    _check_keys(given, place, keys, wrongs)
    name = given.get(who)
    role = roles.get(name) if isinstance(name, str) else None
    if who in given and role is None:
        got = repr(name) if isinstance(name, str) else kind_of(name)
        wrongs.append((f"`{place}.{who}` must be one of {', '.join(roles)}, got {got}", ""))
    is_assistants = role == "assistant"
    text = ""
    if what in given:
        text = _content(given[what], f"{place}.{what}", wrongs, may_be_empty=is_assistants)
    weight = given.get("weight", 1)
    if isinstance(weight, bool) or weight not in (0, 1):
        wrongs.append((f"`{place}.weight` must be 0 or 1, got {weight!r}", ""))
    return Message(role, text, is_assistants and weight == 1 and bool(text.strip())) if role else None


def _check_keys(given: Mapping[str, Any], place: str, keys: tuple[str, str], wrongs: Wrongs) -> None:
    """Keys that a message lacks or that would be passed over in silence."""
    missing = [key for key in keys if key not in given]
    if missing and keys == ("from", "value") and {"role", "content"} <= set(given):
        hint = 'it is of the other shape: shape="messages", columns={"messages": "conversations"}'
    elif missing and keys == ("role", "content") and {"from", "value"} <= set(given):
        hint = 'it is of the other shape: shape="sharegpt", columns={"conversations": "messages"}'
    else:
        hint = ""
    wrongs += [(f"`{place}` has no `{key}`", hint) for key in missing]
    for key in given:
        if key not in (*keys, "weight") and not hint:
            what = f"`{place}` has a key `{key}`, which lorac does not read"
            wrongs.append(
                (what, f"remove `{key}`; a message is {{{', '.join(keys)}}}, weight 0 or 1 besides")
            )


def _content(value: Any, place: str, wrongs: Wrongs, *, may_be_empty: bool) -> str:
    """A message's text: text, or the parts {type: "text", text} joined."""
    if not isinstance(value, list):
        return text_of(value, f"`{place}`", wrongs, may_be_empty=may_be_empty)
    before = len(wrongs)
    joined = ""
    for index, part in enumerate(value):
        if not isinstance(part, dict) or part.get("type") != "text" or set(part) != {"type", "text"}:
            kind = f"type {part['type']!r}" if isinstance(part, dict) and "type" in part else kind_of(part)
            wrongs.append((f'`{place}[{index}]` must be {{type: "text", text}}, got {kind}', ""))
        else:
            joined += text_of(part["text"], f"`{place}[{index}].text`", wrongs, may_be_empty=True)
    if len(wrongs) > before:
        return ""
    return text_of(joined, f"`{place}`", wrongs, may_be_empty=may_be_empty)
