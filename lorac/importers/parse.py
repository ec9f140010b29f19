"""A config's bytes as plain data. Which of JSON, TOML and YAML it is, and whether it is a LoRA, its contents say.

- No key is lost on the way: a key given twice is refused in all three (YAML's library would keep the last).
- YAML by its safe loader alone; sizes are limited, and so is what aliases may unfold to (lorac.importers.ledger).
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from runtime.errors import InputError, Problem
from runtime.safeio import paths, safetensors, strict_json

LIMIT = 2**20
"""Bytes of a config; the largest preset of a trainer's own repository has 30 kB."""

JSON_LIMIT = 2**26
"""Bytes of JSON: a plan names each picture with its caption."""

LIKE_TOML = re.compile(r"^\s*(\[[\w.\[\]-]+\]|[\w.-]+\s*=)", re.MULTILINE)
"""A line that TOML begins a table or a value with."""

PYTHON = "tag:yaml.org,2002:python"
"""How PyYAML calls tags that make objects, as its error names them."""

KINDS = "a trainer's config (YAML, TOML or JSON) or a LoRA's .safetensors"


def read(path: Path) -> Any:
    """A file's data: mappings, lists and scalars, or the Header of a safetensors file. Raises InputError."""
    where = paths.display(path)
    with paths.open_file(path) as file:
        data = file.read(JSON_LIMIT + 1)
        if data[8:9] == b"{" and b"\0" in data[:8]:
            return safetensors.read_header(path)
    if len(data) > (JSON_LIMIT if data.lstrip()[:1] in (b"{", b"[") else LIMIT):
        raise _not(where, f"is larger than any config ({len(data):,} bytes), and no safetensors file")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not(where, f"is neither a safetensors file nor UTF-8 text (byte {error.start})") from None
    if text.lstrip()[:1] in ("{", "["):
        try:
            return strict_json.loads(text, where)
        except InputError as wrong_json:
            # A TOML file may begin with a [section], and nothing else that a trainer reads begins so.
            if text.lstrip()[0] == "{":
                raise wrong_json from None
    return _toml_or_yaml(text, where)


def _toml_or_yaml(text: str, where: str) -> Any:
    """TOML's `key = value` is no mapping in YAML, and YAML's `key: value` is no TOML: one of the two at most."""
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        no_toml = f"not TOML: {error}"
    try:
        value = yaml.load(text, Loader=_Unique)  # _Unique is the safe loader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f" (line {mark.line + 1})" if mark else ""
        if PYTHON in str(error.problem):
            what = f"has a tag that would have Python run code{line}; nothing of it was run"
            raise InputError(Problem(where, what, "take the tag out: a config is data")) from None
        no_yaml = f"not YAML: {error.problem}{line}"
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:
        no_yaml = f"not YAML: {type(error).__name__} {error}"
    else:
        if isinstance(value, dict | list):
            return value
        no_yaml = "not YAML: it has no `key: value`"
    raise _not(where, f"is {no_toml if LIKE_TOML.search(text) else no_yaml}")


class _Unique(yaml.SafeLoader):
    """The safe loader, but a key given twice is an error, and a date stays the text it is."""


def _mapping(loader: _Unique, node: yaml.MappingNode) -> dict[Any, Any]:
    written = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
    twice = next((key for key, times in Counter(written).items() if times > 1), None)
    if twice is not None:
        raise yaml.constructor.ConstructorError(None, None, f"{twice!r} is given twice", node.start_mark)
    loader.flatten_mapping(node)
    return {
        _key(loader.construct_object(key, deep=True)): loader.construct_object(value, deep=True)
        for key, value in node.value
    }


def _key(key: Any) -> Any:
    """A key that a dict can hold; YAML allows lists as keys."""
    return key if isinstance(key, str | int | float | bool | None) else repr(key)


_Unique.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Unique.add_constructor("tag:yaml.org,2002:timestamp", lambda loader, node: loader.construct_scalar(node))


def _not(where: str, what: str) -> InputError:
    return InputError(Problem(where, what, f"give {KINDS}"))
