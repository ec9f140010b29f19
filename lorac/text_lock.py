"""The text lock: every file of a text set by sha256, how its rows are read, how many samples and tokens it has.

Tokenising is done here, with the base's own tokenizer: what is cut, what is dropped and how full the sequences are is
known before anything is trained. The runtime finds the tokens in the cache.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from lorac import spec
from lorac.places import cache_folder
from runtime import plan
from runtime.data import shapes, text_sets
from runtime.data.order import Numbers
from runtime.errors import InputError, LoracError, Problem
from runtime.families import family
from runtime.text import corpus, render, sequences
from runtime.text.spans import chat_of, dated

ASSUMED_SEQUENCES = 1000

SHOWN = 600
"""Characters of the rendered example that the plan keeps."""


@attrs.frozen(kw_only=True)
class Locked:
    """The text set with what a person should know of it. `folder` is what the files' paths are relative to, `lengths`
    are the tokens of each sample that is trained on, file after file; None where they are not known."""

    texts: plan.Texts
    notes: tuple[plan.Decision, ...]
    locked: bool
    folder: Path
    lengths: Numbers | None = attrs.field(default=None, eq=False)


@attrs.frozen(kw_only=True)
class Source:
    """One file of the spec, as it is read."""

    path: Path
    shape: str
    columns: dict[str, str]
    weight: float
    max_samples: int


def lock(
    given: Sequence[Any],
    wanted: spec.Sequences,
    folder: Path,
    base: plan.Base,
    base_path: Path | None,
    unlocked: bool,
) -> Locked:
    """Lock the files of a spec. `base_path` is None where the base is elsewhere. Raises InputError with all
    problems."""
    sources = [source_of(one, folder) for one in given]
    missing = [source for source in sources if not source.path.is_file()]
    if missing and not unlocked:
        hint = "put it there, or plan without it: lorac plan SPEC --unlocked"
        raise InputError([Problem(str(source.path), "the data is not here", hint) for source in missing])
    if missing or base_path is None:
        count = wanted.expected if isinstance(wanted.expected, int) else ASSUMED_SEQUENCES
        return Locked(texts=_texts(wanted, "", (), count, ""), notes=(), locked=False, folder=folder)
    of = family(base.family)
    tokenizer = of.load_tokenizers(base_path, base)[of.BACKBONE]
    sets = _read(sources)
    talks = any(one.shape != "text" for one in sets)
    template = _template(wanted.template, tokenizer) if talks else ""
    rule = corpus.Rule(template=template, length=wanted.length, held_out=float(wanted.held_out))
    root = Path(os.path.commonpath([source.path.resolve().parent for source in sources]))
    made, files, problems = [], [], list[Problem]()
    for source, one in zip(sources, sets, strict=True):
        try:
            found = corpus.of_file(
                source.path,
                one.sha256,
                one.shape,
                source.columns,
                rule,
                tokenizer,
                base.digest,
                cache_folder(),
                source.max_samples,
            )
        except LoracError as error:
            problems += error.problems
            continue
        made.append(found)
        files.append(
            plan.TextFile(
                path=source.path.resolve().relative_to(root).as_posix(),
                sha256=one.sha256,
                shape=one.shape,
                columns=dict(source.columns),
                weight=source.weight,
                samples=found.read,
                trained=len(found.train),
                max_samples=source.max_samples,
            )
        )
    if problems:
        raise InputError(problems)
    order = sequences.order_of(
        made, [file.weight for file in files], wanted.length, wanted.packing, seed=0, effective_batch=1
    )
    whole = hashlib.sha256("".join(f"{one.digest}\n" for one in sets).encode()).hexdigest()
    texts = _texts(wanted, whole, tuple(files), sequences.per_epoch(order), template)
    notes = (*_notes(sets, made, texts), *_example(sets, tokenizer, template))
    lengths = np.concatenate([one.train.lengths for one in made])
    return Locked(texts=texts, notes=notes, locked=True, folder=root, lengths=lengths)


def source_of(one: Any, folder: Path) -> Source:
    """How a part of the spec is read."""
    shape, columns = _shape_of(one)
    return Source(
        path=folder / one.path,
        shape=shape,
        columns=columns,
        weight=float(one.weight),
        max_samples=one.max_samples or 0,
    )


def _shape_of(one: Any) -> tuple[str, dict[str, str]]:
    """The shape, and the columns called otherwise. One that may be missing is looked for under its usual name only."""
    if isinstance(one, spec.Text):
        return "text", _renamed(text=one.text)
    if isinstance(one, spec.Completions):
        return "prompt_completion", _renamed(prompt=one.prompt, completion=one.completion)
    if isinstance(one, spec.Instructions):
        return "alpaca", _renamed(
            instruction=one.instruction, input=one.input, output=one.output, system=one.system
        )
    shape = text_sets.AUTO if isinstance(one.style, spec.Auto) else one.style
    if isinstance(one.messages, spec.Auto):
        return shape, {}
    shape = "messages" if shape == text_sets.AUTO else shape
    return shape, _renamed(**{shapes.SHAPES[shape].required[0]: one.messages})


def _renamed(**columns: str) -> dict[str, str]:
    """The columns that a file calls otherwise."""
    return {column: name for column, name in columns.items() if column != name}


def _read(sources: Sequence[Source]) -> list[text_sets.TextSet]:
    """All files; everything wrong with all of them at once."""
    sets, problems, more = [], list[Problem](), 0
    for source in sources:
        try:
            sets.append(text_sets.read(source.path, source.shape, source.columns, source.max_samples))
        except text_sets.WrongRows as error:
            problems += error.problems
            more += error.more
        except InputError as error:
            problems += error.problems
    if problems:
        raise text_sets.WrongRows(problems, more)
    return sets


def _template(wanted: str, tokenizer: Any) -> str:
    """The chat template's source, its date fixed: what is trained is what will be asked."""
    return dated(render.named_template(wanted) if wanted != "base" else _own(tokenizer))


def _own(tokenizer: Any) -> str:
    chat_of(tokenizer)  # raises where there is none
    return str(tokenizer.get_chat_template())


def _texts(
    wanted: spec.Sequences, whole: str, files: tuple[plan.TextFile, ...], expected: int, template: str
) -> plan.Texts:
    return plan.Texts(
        digest=whole,
        files=files,
        expected=expected,
        length=wanted.length,
        packing=wanted.packing,
        template=template,
        held_out=float(wanted.held_out),
    )


def _notes(
    sets: Sequence[text_sets.TextSet], made: Sequence[corpus.Corpus], texts: plan.Texts
) -> Iterator[plan.Decision]:
    """What is no error, but nobody should be surprised by later."""
    tokens = sum(int(one.train.ids.size) for one in made)
    trained = sum(int(one.train.trained.sum()) for one in made)
    held = sum(len(one.held_out) for one in made)
    said = f"{trained:,} of them trained; {held:,} samples held out"
    yield plan.Decision(field="tokens", value=f"{tokens:,}", reason=said)
    if texts.packing:
        full = sum(
            int(one.train.ids.size) * file.weight for one, file in zip(made, texts.files, strict=True)
        ) / (texts.expected * texts.length)
        yield plan.Decision(
            field="packing", value=f"{texts.expected:,} sequences", reason=f"{full:.0%} full, an epoch"
        )
    for file, one, corpus_ in zip(texts.files, sets, made, strict=True):
        for what, count in (
            (f"are cut to {texts.length} tokens", corpus_.truncated),
            ("have no trained token left and are dropped", corpus_.dropped),
            ("say what another says", one.repeated),
        ):
            if count:
                reason = f"{count:,} of {corpus_.read:,} samples {what}"
                yield plan.Decision(field="note", value=file.path, reason=reason)
        if file.max_samples:
            reason = f"its first {file.max_samples:,} rows alone are read"
            yield plan.Decision(field="note", value=file.path, reason=reason)
        if one.unread:
            reason = f"nothing is read from its columns {', '.join(one.unread)}"
            yield plan.Decision(field="note", value=file.path, reason=reason)


def _example(sets: Sequence[text_sets.TextSet], tokenizer: Any, template: str) -> Iterator[plan.Decision]:
    """The first sample as the model sees it, what is trained between ⟦ and ⟧."""
    first = sets[0].first
    chat = chat_of(tokenizer, template) if template else None
    tokens = corpus.tokens_of(tokenizer, chat, first)
    said, on, run = "", False, list[int]()
    for token, trained in [*zip(tokens.ids, tokens.trained, strict=True), (None, False)]:
        if trained != on or token is None:
            text = tokenizer.decode(run)
            said += f"⟦{text}⟧" if on else text
            on, run = trained, []
        if token is not None:
            run.append(token)
    shown = said if len(said) <= SHOWN else f"{said[:SHOWN]}…"
    yield plan.Decision(field="example", value=sets[0].shape, reason=repr(shown)[1:-1])
