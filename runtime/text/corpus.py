"""A plan's text files as token ids: read, split, rendered, tokenised and cut, each file once for all plans.

What is made of a file is kept on disk by content: the file's bytes, how its rows are read, the template, the length,
the held-out share, the base's tokenizer and the versions of what tokenises.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping, Set
from importlib.metadata import version
from pathlib import Path

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from runtime.data import held_out, text_sets
from runtime.data.entries import Entries
from runtime.data.samples import Sample, Text
from runtime.errors import InputError, Problem
from runtime.safeio import strict_json
from runtime.text import render
from runtime.text.render import Tokens
from runtime.text.spans import Chat, chat_of

VERSION = 2
"""Part of every key: raise it when the same key would mean other tokens."""

SPLIT_SEED = 0
"""What decides which samples are held out: not the training's seed, so that runs are measured on the same ones."""


@attrs.frozen(kw_only=True)
class Rule:
    """How text becomes tokens. `template` is a chat template's source, empty for plain text alone."""

    template: str
    length: int
    held_out: float


@attrs.frozen(eq=False)
class Side:
    """Samples end to end: `ids` and `trained` are flat, sample i lies at ends[i - 1]:ends[i]; `rows` are their numbers
    in the file, from 1."""

    ids: NDArray[np.int32]
    trained: NDArray[np.bool_]
    ends: NDArray[np.int64]
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each sample."""
        return np.diff(self.ends, prepend=0)

    def sample(self, number: int) -> Tokens:
        """One sample."""
        begin, end = (int(self.ends[number - 1]) if number else 0), int(self.ends[number])
        return Tokens(
            ids=tuple(self.ids[begin:end].tolist()), trained=tuple(self.trained[begin:end].tolist())
        )


@attrs.frozen(kw_only=True, eq=False)
class Corpus:
    """One file's samples on both sides. `truncated` lost tokens to the length, `dropped` all that was to be learned."""

    train: Side
    held_out: Side
    read: int
    truncated: int
    dropped: int


def of_file(
    path: Path,
    sha256: str,
    shape: str,
    columns: Mapping[str, str],
    rule: Rule,
    tokenizer: PreTrainedTokenizerBase,
    base_digest: str,
    cache: Path | None,
    max_samples: int = 0,
) -> Corpus:
    """The corpus of one file that `text_sets.read` took, or of its first rows, from the cache or made now.

    Raises InputError with every sample that the template does not take, or that is none any longer.
    """
    question = {
        "version": VERSION,
        "file": sha256,
        "shape": shape,
        "columns": dict(columns),
        "rule": attrs.asdict(rule),
        "base": base_digest,
        "versions": {name: version(name) for name in ("transformers", "tokenizers", "jinja2")},
        **({"max_samples": max_samples} if max_samples else {}),
    }
    key = strict_json.sha256(question)
    entries = Entries(cache / "encoded", budget=0) if cache else None
    kept = entries.read(key) if entries else None
    if kept is not None:
        return _unpack({name: tensor.numpy() for name, tensor in kept.items()})
    made = tokenise(lambda: text_sets.each(path, shape, columns, max_samples), rule, tokenizer, path.name)
    if entries:
        entries.write(key, {name: torch.tensor(array) for name, array in _pack(made).items()})
    return made


def tokenise(
    samples: Callable[[], Iterable[Sample | Text]], rule: Rule, tokenizer: PreTrainedTokenizerBase, where: str
) -> Corpus:
    """Split, render and cut, sample by sample: `samples` reads them from the first on.

    Raises InputError where nothing is left to train on, and with every sample that the template does not take.
    """
    held: Set[int] = frozenset()
    if rule.held_out:
        held = frozenset(held_out.by_fraction(samples(), rule.held_out, SPLIT_SEED, where).held_out)
    chat: Chat | None = None
    train, measured, problems = _Filling(), _Filling(), list[Problem]()
    read = truncated = dropped = 0
    for number, sample in enumerate(samples()):
        read += 1
        if chat is None and not isinstance(sample, Text):
            chat = chat_of(tokenizer, rule.template or None)
        try:
            tokens = tokens_of(tokenizer, chat, sample)
        except InputError as error:
            problems += error.problems
            continue
        short = render.cut(tokens, rule.length)
        if short is None:
            dropped += 1
            continue
        truncated += len(tokens.ids) > rule.length
        (measured if number in held else train).add(number + 1, short)
    if problems:
        raise InputError(problems)
    if not train.rows:
        what = f"of {read:,} samples none has a trained token within {rule.length} tokens"
        raise InputError(Problem(where, what, "raise sequences.length, or shorten the prompts"))
    return Corpus(
        train=train.side(), held_out=measured.side(), read=read, truncated=truncated, dropped=dropped
    )


def tokens_of(tokenizer: PreTrainedTokenizerBase, chat: Chat | None, of: Sample | Text) -> Tokens:
    """One sample's tokens. Raises InputError with the sample's place."""
    if isinstance(of, Text):
        return render.plain(tokenizer, of.text)
    assert chat is not None
    messages = [{"role": message.role, "content": message.content} for message in of.messages]
    try:
        return render.conversation(tokenizer, chat, messages, [message.trained for message in of.messages])
    except InputError as error:
        raise InputError(
            [Problem(of.where, f"{p.where} {p.what}".strip(), p.hint) for p in error.problems]
        ) from None


class _Filling:
    """A side as it is filled: five bytes a token, whatever Python's own numbers take."""

    def __init__(self) -> None:
        self.ids, self.trained = array("i"), array("b")
        self.lengths, self.rows = array("q"), array("q")

    def add(self, row: int, sample: Tokens) -> None:
        self.ids.extend(sample.ids)
        self.trained.extend(sample.trained)
        self.lengths.append(len(sample.ids))
        self.rows.append(row)

    def side(self) -> Side:
        return Side(
            ids=np.array(self.ids, dtype=np.int32),
            trained=np.array(self.trained, dtype=np.bool_),
            ends=np.cumsum(self.lengths, dtype=np.int64),
            rows=np.array(self.rows, dtype=np.int64),
        )


def _pack(of: Corpus) -> dict[str, NDArray[np.generic]]:
    counts = np.array([of.read, of.truncated, of.dropped], dtype=np.int64)
    return {
        "counts": counts,
        **{
            f"{name}.{part}": getattr(side, part)
            for name, side in (("train", of.train), ("held_out", of.held_out))
            for part in ("ids", "trained", "ends", "rows")
        },
    }


def _unpack(arrays: Mapping[str, NDArray[np.generic]]) -> Corpus:
    train, held = (
        Side(*(arrays[f"{name}.{part}"] for part in ("ids", "trained", "ends", "rows")))  # type: ignore[arg-type]
        for name in ("train", "held_out")
    )
    read, truncated, dropped = (int(count) for count in arrays["counts"])
    return Corpus(train=train, held_out=held, read=read, truncated=truncated, dropped=dropped)
