"""Make the language-model demo's data from Debian's dict-jargon: `python specs/jargon/make_data.py --dict DIR`.

DIR holds jargon.index and jargon.dict.dz, as `apt-get download dict-jargon; dpkg -x dict-jargon_*.deb .` puts them into
usr/share/dictd. Writes jargon.jsonl and README.md beside this script: a question and an answer for each entry.
"""

from __future__ import annotations

import gzip
import json
import re
import string
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from textwrap import dedent

import attrs
import click

HERE = Path(__file__).parent
LONGEST = 1500
"""Characters of an answer: some 350 tokens, so that the demo's context can be short."""

DIGITS = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
"""dictd's numbers: base 64, the most significant digit first (dictd(8), dictfmt)."""

REFERENCE = re.compile(r"\{\s*([^\s{};=][^{};=]*?)\s*\}")
"""`{term}`, a link to another entry."""

PLACEHOLDER = re.compile(r"\[\d\d-\d\d-\d\d\]")
"""Where the File shows a cartoon, by its date; its caption is the next paragraph."""

WIDTH = 75
"""Columns at which the lines of a paragraph were broken: 79, less what characters of two columns may take."""

POINTING = (
    "a adj adv also and as at compare entry for is like main n of or same see sense senses syn synonym "
    "synonymous the under v variant vi vt with"
)
"""Words of an entry that only points to others."""

ABOUT = """# The Jargon File as questions and answers

`jargon.jsonl` has {kept:,} rows `{{"instruction": "What does “TERM” mean?", "output": definition}}`, made by
`make_data.py` from the Jargon File, version 4.4.7 of 29 December 2003, maintained by Eric S. Raymond, as Debian's
package `dict-jargon` 4.4.7-3.1 holds it.

The Jargon File is in the public domain, “to be freely used, shared, and modified”; its editors ask to be cited with
the version number, as here.

Of the {entries:,} entries, {pointing:,} that only point to others and {long:,} whose definition is longer than
{longest:,} characters were left out. Changes to the others: the headword's pronunciation and part of speech, the
braces of links, cartoons' captions and the line breaks inside paragraphs are gone; paragraphs, verse, code and
drawings are kept.
"""


@attrs.frozen
class Entry:
    """A headword and its definition as dictd holds it."""

    term: str
    definition: str


def entries(folder: Path) -> Iterator[Entry]:
    """The entries of a dictd dictionary, without those about the dictionary itself."""
    whole = gzip.decompress((folder / "jargon.dict.dz").read_bytes())
    for line in (folder / "jargon.index").read_text(encoding="utf-8").splitlines():
        key, start, length = line.split("\t")
        if not key.startswith("00-database"):
            at = number(start)
            term, _, definition = whole[at : at + number(length)].decode("utf-8").partition("\n")
            yield Entry(term.strip(), definition)


def number(digits: str) -> int:
    """A number of a dictd index."""
    value = 0
    for digit in digits:
        value = value * 64 + DIGITS.index(digit)
    return value


def cleaned(definition: str) -> str:
    """Paragraphs parted by blank lines, each in one line; the head (pronunciation, part of speech) is left out."""
    parts = [part.replace("\xa0", " ") for part in re.split(r"\n[ \t]*\n", _body(definition)) if part.strip()]
    if re.fullmatch("[A-Z]", parts[-1].strip()):  # the heading of the next letter's section
        del parts[-1]
    paragraphs = []
    for before, part in pairwise(["", *(part.strip("\n") for part in parts)]):
        is_caption = PLACEHOLDER.fullmatch(before.strip()) and not part.strip()[0].isdigit()
        if not is_caption and not PLACEHOLDER.fullmatch(part.strip()):
            paragraphs.append(_paragraph(part))
    return "\n\n".join(paragraphs)


def _body(definition: str) -> str:
    """A definition without its head, which ends at the first blank line."""
    _, _, body = definition.partition("\n\n")
    return body.strip("\n")


def _paragraph(text: str) -> str:
    if "□" in text:
        return "\n".join(f"- {_joined(item)}" for item in text.split("□") if item.strip())
    lines = [line.rstrip() for line in text.split("\n") if line.strip()]
    if _is_prose(lines):
        return _joined(text)
    return REFERENCE.sub(r"\1", dedent("\n".join(lines)))


def _is_prose(lines: list[str]) -> bool:
    """Whether all lines have one indent and each was broken because the next word did not fit."""
    indents = {len(line) - len(line.lstrip()) for line in lines}
    widths = [len(line) + 1 + len(after.split()[0]) for line, after in pairwise(lines)]
    return len(indents) == 1 and all(width > WIDTH for width in widths)


def _joined(text: str) -> str:
    """Lines as one. The program that broke them also broke them inside links, after quotes and after slashes."""
    text = re.sub(r" *\n *", "\n", text.strip())
    text = re.sub(r"([“\u2018({\[/])\n", r"\1", text)
    text = re.sub(r"\n(?=[”\u2019),;.}\]](?:\W|$))", "", text)
    return REFERENCE.sub(r"\1", re.sub(r"\s+", " ", text))


def only_points(definition: str) -> bool:
    """Whether a definition says nothing but which other entries to look at; asides in brackets do not count."""
    body = _body(definition)
    rest = re.sub(r"\[[^\]]*\]|\([^)]*\)", "", REFERENCE.sub("", body)).lower()
    rest = re.sub(r"\n\s*\n\s*[a-z]$", "", rest.rstrip())
    return bool(REFERENCE.search(body)) and not set(re.findall(r"[a-z]+", rest)) - set(POINTING.split())


@click.command()
@click.option(
    "--dict", "folder", type=click.Path(exists=True, path_type=Path), required=True, help="usr/share/dictd"
)
def main(folder: Path) -> None:
    """Write jargon.jsonl and README.md beside this script."""
    rows = []
    counts: Counter[str] = Counter()
    for entry in sorted(entries(folder), key=lambda entry: (entry.term.lower(), entry.term)):
        counts["entries"] += 1
        answer = cleaned(entry.definition)
        if only_points(entry.definition):
            counts["pointing"] += 1
        elif len(answer) > LONGEST:
            counts["long"] += 1
        else:
            rows.append({"instruction": f"What does “{entry.term}” mean?", "output": answer})
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (HERE / "jargon.jsonl").write_text("".join(lines), encoding="utf-8")
    numbers = {name: counts[name] for name in ("entries", "pointing", "long")}
    (HERE / "README.md").write_text(
        ABOUT.format(kept=len(rows), longest=LONGEST, **numbers), encoding="utf-8"
    )
    click.echo(f"{len(rows)} rows of {numbers}")


if __name__ == "__main__":
    main()
