"""What is wrong with a text set: files of instructions, conversations, completions or plain text.

A file is held out by its name (heldout, valid, eval, test, dev) or because the caller says so; prompts of the others
that nearly equal one of its prompts are leaks. Within a file they leak too, once a plan holds a share of it out.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs

from lorac.check import Faults
from runtime.data import samples, shapes, tables
from runtime.data.samples import Sample, Text
from runtime.errors import InputError, Problem
from runtime.safeio import paths

SUFFIXES = tuple(suffix for suffix in tables.READERS if suffix not in (".txt", ".md"))
"""Of the files that are looked for in a folder: a text file there may be anything."""

HELD_OUT = re.compile(r"held[-_ ]?out|valid|eval|test|dev", re.IGNORECASE)

ALIKE = 0.8
"""Share of two prompts' words that are common to both (Jaccard), from which on they ask the same."""

FEWEST = 8
"""Words of a prompt that is compared by share: below, one word more is another question."""

CHARACTERS = 4
"""Of a token of English, about (OpenAI's help centre, "What are tokens and how to count them?")."""

AROUND = "“”„\u2018\u2019\"'`.,;:?!…()[]{}<>*"
"""Signs around a word that are no part of it; those inside are: C++ is not C."""


@attrs.frozen(kw_only=True)
class Texts:
    """Samples of all files in their order, those held out apart, and rows that are none. `length` is in tokens."""

    train: tuple[Sample | Text, ...]
    held_out: tuple[Sample | Text, ...]
    wrong: tuple[Problem, ...]
    length: int


def files_in(place: Path) -> list[Path]:
    """The file itself, or the data files of a folder at any depth, in the order of their names."""
    if not place.is_dir():
        return [place]
    found = (path for path in place.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    return sorted(path for path in found if not path.name.startswith("."))


def read(files: Sequence[Path], held_out: Sequence[Path], length: int) -> Texts:
    """Every row of the files. Raises InputError for files that cannot be read at all, or of no known shape."""
    wrong: list[Problem] = []
    sides: dict[bool, list[Sample | Text]] = {False: [], True: []}
    problems: list[Problem] = []
    for path in dict.fromkeys([*files, *held_out]):
        is_held_out = path in held_out or bool(HELD_OUT.search(path.stem))
        try:
            for one in _samples(path):
                if isinstance(one, Problem):
                    wrong.append(one)
                else:
                    sides[is_held_out].append(one)
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return Texts(train=tuple(sides[False]), held_out=tuple(sides[True]), wrong=tuple(wrong), length=length)


def _samples(path: Path) -> Iterator[Sample | Text | Problem]:
    """A file's samples, in the shape that its first row has. Raises InputError."""
    shape = ""
    for row in tables.rows(path):
        if isinstance(row, Problem):
            yield row
            continue
        if not shape:
            detected = shapes.detect(row)
            if isinstance(detected, Problem):
                raise InputError(detected)
            shape = detected
        made = shapes.sample(row, shape)
        if isinstance(made, list):
            yield from made
        else:
            yield made


# ------------------------------------------------------------------------------------------------------------ faults


def empty(texts: Texts) -> Iterator[Problem]:
    """Answers, questions and texts with nothing in them."""
    return (problem for problem in texts.wrong if _is_empty(problem))


def unusable(texts: Texts) -> Iterator[Problem]:
    """Rows that are broken, or not of the file's shape."""
    return (problem for problem in texts.wrong if not _is_empty(problem))


def _is_empty(problem: Problem) -> bool:
    return "empty" in problem.what


def duplicates(texts: Texts) -> Iterator[Problem]:
    """Samples that say, word for word, what an earlier one of their side says."""
    for side in (texts.train, texts.held_out):
        first: dict[str, str] = {}
        for sample in side:
            place = first.setdefault(samples.content_digest(sample), sample.where)
            if place != sample.where:
                yield Problem(sample.where, f"says the same as {place}", "remove one")


def near_duplicates(texts: Texts) -> Iterator[Problem]:
    """Prompts of what is trained that nearly equal an earlier one with another answer."""
    different = list({samples.content_digest(sample): sample for sample in texts.train}.values())
    for one, other in _pairs(different, different):
        yield Problem(one.where, f"asks nearly what {other.where} asks: {_shown(one)}", "keep the better one")


def leaks(texts: Texts) -> Iterator[Problem]:
    """Held-out prompts that were trained on, or nearly."""
    for one, other in _pairs(texts.held_out, texts.train):
        what = f"is held out, but {other.where} asks nearly the same: {_shown(one)}"
        yield Problem(one.where, what, "remove one of the two: what is measured must not be trained on")


def long(texts: Texts) -> Iterator[Problem]:
    """Samples that will be cut off, by their characters."""
    for sample in (*texts.train, *texts.held_out):
        about = _characters(sample) // CHARACTERS
        if about > texts.length:
            what = f"has about {about:,} tokens, more than {texts.length:,}: its end would be cut off"
            yield Problem(sample.where, what, "split it, or raise the length: Sequences(length=…)")


FAULTS: Faults[Texts] = {
    "error": {"unusable": unusable, "empty": empty, "leak": leaks},
    "warning": {"duplicate": duplicates, "near-duplicate": near_duplicates, "too-long": long},
}
"""Of a text set. The closed registry."""


# ------------------------------------------------------------------------------------------------------ near-equality


def _pairs(
    asked: Sequence[Sample | Text], known: Sequence[Sample | Text]
) -> Iterator[tuple[Sample | Text, Sample | Text]]:
    """Each sample whose prompt nearly equals that of a known one, with the first such; of one list, an earlier one.

    Two sets of words share ALIKE of them only if they share one of their rarest few: prefix filtering (Chaudhuri et
    al. 2006, "A primitive operator for similarity joins in data cleaning"). So few pairs are compared.
    """
    words = [_words(sample) for sample in known]
    times = Counter(word for mine in words for word in set(mine))
    place: defaultdict[str, list[int]] = defaultdict(list)
    for at, mine in enumerate(words):
        for word in _rarest(mine, times):
            place[word].append(at)
    for number, sample in enumerate(asked):
        mine = _words(sample)
        candidates = {at for word in _rarest(mine, times) for at in place.get(word, ())}
        for at in sorted(candidates):
            if asked is known and at >= number:
                break
            if _is_near(mine, words[at]):
                yield sample, known[at]
                break


def _rarest(words: Sequence[str], times: Counter[str]) -> list[str]:
    different = sorted(set(words), key=lambda word: (times[word], word))
    return different[: len(different) - math.ceil(ALIKE * len(different)) + 1]


def _is_near(first: Sequence[str], second: Sequence[str]) -> bool:
    if first == second:
        return True
    one, other = set(first), set(second)
    return min(len(one), len(other)) >= FEWEST and len(one & other) >= ALIKE * len(one | other)


def _words(sample: Sample | Text) -> tuple[str, ...]:
    words = (word.strip(AROUND) for word in _prompt(sample).casefold().split())
    return tuple(word for word in words if word)


def _prompt(sample: Sample | Text) -> str:
    """What is asked: the user's messages; all of a plain text."""
    if isinstance(sample, Text):
        return sample.text
    return "\n".join(message.content for message in sample.messages if message.role == "user")


def _characters(sample: Sample | Text) -> int:
    if isinstance(sample, Text):
        return len(sample.text)
    return sum(len(message.content) for message in sample.messages)


def _shown(sample: Sample | Text) -> str:
    text = " ".join(_prompt(sample).split())
    return repr(text if len(text) <= 60 else f"{text[:59]}…")


def no_files(place: Path) -> InputError:
    """For a folder in which there is nothing to check."""
    what = f"has neither pictures nor data files ({', '.join(SUFFIXES)})"
    return InputError(Problem(paths.display(place), what, "give the folder of the data, or a file"))
