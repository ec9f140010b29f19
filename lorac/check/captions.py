"""Captions that are missing, or that a model learns little from."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from lorac import captions
from lorac.check.scan import Scan
from runtime.errors import Problem

VAGUE = frozenset(
    line
    for line in Path(__file__).with_name("vague.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
)
TOKENS = 77
"""What CLIP reads of a caption, its start and end included; the rest is cut off."""

WORD = re.compile(r"\w+")


def missing(scan: Scan) -> Iterator[Problem]:
    label = f"write one, or let a model: lorac label {scan.folder.root.as_posix()}"
    pictures = {scan.shown(name) for name in scan.folder.pictures} | {scan.shown("")}
    for problem in scan.caption_problems:
        if problem.where in pictures and problem.what != captions.EMPTY:
            yield Problem(problem.where, problem.what, label)


def empty(scan: Scan) -> Iterator[Problem]:
    for problem in scan.caption_problems:
        if problem.what == captions.EMPTY:
            yield Problem(problem.where, problem.what, "write what is in the picture")


def unusable(scan: Scan) -> Iterator[Problem]:
    """Rows of a caption table that name no picture, and caption files that cannot be read."""
    pictures = {scan.shown(name) for name in scan.folder.pictures} | {scan.shown("")}
    for problem in scan.caption_problems:
        if problem.where not in pictures:
            yield problem


def repeated(scan: Scan) -> Iterator[Problem]:
    """Captions that several pictures share."""
    owners = defaultdict(list)
    for name, caption in scan.captions.items():
        owners[caption.casefold()].append(name)
    for names in owners.values():
        for name in names[1:]:
            what = f"has the caption of {names[0]}: {scan.captions[name]!r} ({len(names)} times in all)"
            yield Problem(scan.shown(name), what, "say what tells the pictures apart")


def vague(scan: Scan) -> Iterator[Problem]:
    """Captions that say nothing of their own picture."""
    common = VAGUE | set(_words(scan.trigger))
    for name, caption in scan.captions.items():
        if not set(_words(caption)) - common:
            what = f"has a vague caption: {caption!r}"
            yield Problem(scan.shown(name), what, "name the subject, and what is special about it")


def without_trigger(scan: Scan) -> Iterator[Problem]:
    if not captions.clean(scan.trigger):
        return
    for name, caption in scan.captions.items():
        if captions.with_trigger(caption, scan.trigger) != caption:
            what = f"its caption lacks the trigger {scan.trigger!r}: {caption!r}"
            yield Problem(scan.shown(name), what, "add it, or set Images(prepend_trigger=True)")


def too_long(scan: Scan) -> Iterator[Problem]:
    """Captions of more than CLIP's 77 tokens. A token is a byte at least: shorter ones need not be counted."""
    long = {name: text for name, text in scan.captions.items() if len(text.encode()) > TOKENS - 2}
    if not long:
        return
    from runtime.families import clip_vocabulary

    tokenizer = clip_vocabulary.tokenizer()
    for name, caption in long.items():
        count = len(tokenizer(caption, verbose=False).input_ids)
        if count > TOKENS:
            what = f"its caption has {count} tokens; CLIP reads {TOKENS} and cuts off the rest"
            yield Problem(scan.shown(name), what, "say what matters first, and shorten the rest")


def _words(text: str) -> list[str]:
    return WORD.findall(text.casefold())
