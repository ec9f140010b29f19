"""Captions as token ids, by whichever vocabulary a family has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from runtime.errors import InputError, Problem
from runtime.families import parts

AT_ONCE = 1000
"""Captions that are counted at once: an encoding is some kilobytes."""


def ids(vocabulary: Any, captions: Sequence[str]) -> Tensor:
    """Token ids (N, tokens), cut and padded to the most that the vocabulary's text encoder takes."""
    found: Tensor = vocabulary(
        list(captions),
        padding="max_length",
        max_length=vocabulary.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    return found


def counts(vocabulary: Any, captions: Sequence[str]) -> list[int]:
    """How many tokens each caption really has, begin and end included."""
    parts = (list(captions[at : at + AT_ONCE]) for at in range(0, len(captions), AT_ONCE))
    return [len(one) for part in parts for one in vocabulary(part, truncation=False, verbose=False).input_ids]


def folder_of(path: Path, folder: str, kind: str) -> Path:
    """Where a base's vocabulary is that no single file holds. Raises InputError."""
    found = parts.place(path, folder)
    if not found.is_dir():
        hint = (
            f"put {folder}/ of the publisher's repository there, or name it: Base(…, parts=(…, {folder!r}))"
        )
        raise InputError(Problem(str(found), f"is not there, and a single file holds no {kind}", hint))
    return found
