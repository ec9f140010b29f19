"""Make the data set of the language-model demo from Debian's dict-jargon: `python specs/jargon/make_data.py --dict DIR`.

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
from pathlib import Path

import attrs
import click

HERE = Path(__file__).parent
LONGEST = 1500
"""Characters of an answer: some 350 tokens, so that the demo's context can be short."""

DIGITS = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
"""dictd's numbers: base 64, the most significant digit first (dictd(8), dictfmt)."""

INDENT = 4
"""Spaces before each line of a definition; what stands further right is verse, code or a drawing."""

REFERENCE = re.compile(r"\{\s*([^{}]+?)\s*\}")
"""`{term}`, a link to another entry."""

SPOKEN = re.compile(r"\s*(?<![\w/])/(?=[^/]*[@'´`·])[A-Za-z@'´`’·:()~ -]+/(?![\w/])")
"""A pronunciation inside a definition: between slashes, with a stress mark or a schwa, which no path here has."""

POINTING = frozenset(
    "a also and as at compare entry for is like main of or same see sense senses syn synonym synonymous the under "
    "variant with".split()
)
"""Words of an entry that only points to others."""

ABOUT = """# The Jargon File as questions and answers

`jargon.jsonl` has {kept:,} rows `{{"instruction": "What does “TERM” mean?", "output": definition}}`, made by `make_data.py`
from the Jargon File, version 4.4.7 of 29 December 2003, maintained by Eric S. Raymond, as Debian's package
`dict-jargon` 4.4.7-3.1 holds it.

The Jargon File is in the public domain, “to be freely used, shared, and modified”; its editors ask to be cited with
the version number, as here.

Of the {entries:,} entries {pointing:,} that only point to others were left out, {long:,} whose definition is longer than
{longest:,} characters and {empty:,} without one. Changes to the others: pronunciation, part of speech, links' braces and the
line breaks inside paragraphs are gone; paragraphs, verse, code and drawings are kept.
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
    _, _, body = definition.partition("\n\n")
    paragraphs = [_paragraph(part) for part in re.split(r"\n[ \t]*\n", body.strip("\n")) if part.strip()]
    return "\n\n".join(paragraphs)


def _paragraph(text: str) -> str:
    lines = [line[INDENT:].rstrip() if line[:INDENT].isspace() else line.rstrip() for line in text.split("\n")]
    if any(line.startswith(" ") for line in lines):
        return "\n".join(lines)
    joined = " ".join(line for line in lines if line)
    # The program that broke the lines also broke them inside quotes, brackets and links.
    joined = re.sub(r"([“‘({\[]) (?=\S)", r"\1", joined)
    joined = re.sub(r" (?=[”’),;.\]](?:\W|$))", "", joined)
    return SPOKEN.sub("", REFERENCE.sub(r"\1", joined))


def only_points(definition: str) -> bool:
    """Whether a definition says nothing but which other entries to look at."""
    _, _, body = definition.partition("\n\n")
    if not REFERENCE.search(body):
        return False
    rest = re.sub(r"\[[^\]]*\]", "", REFERENCE.sub("", body)).lower()
    return not set(re.findall(r"[a-z]+", rest)) - POINTING


@click.command()
@click.option("--dict", "folder", type=click.Path(exists=True, path_type=Path), required=True, help="usr/share/dictd")
def main(folder: Path) -> None:
    """Write jargon.jsonl and README.md beside this script."""
    rows = []
    counts: Counter[str] = Counter()
    for entry in sorted(entries(folder), key=lambda entry: (entry.term.lower(), entry.term)):
        counts["entries"] += 1
        answer = cleaned(entry.definition)
        if not answer:
            counts["empty"] += 1
        elif only_points(entry.definition):
            counts["pointing"] += 1
        elif len(answer) > LONGEST:
            counts["long"] += 1
        else:
            rows.append({"instruction": f"What does “{entry.term}” mean?", "output": answer})
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (HERE / "jargon.jsonl").write_text("".join(lines), encoding="utf-8")
    numbers = {name: counts[name] for name in ("entries", "empty", "pointing", "long")}
    (HERE / "README.md").write_text(ABOUT.format(kept=len(rows), longest=LONGEST, **numbers), encoding="utf-8")
    click.echo(f"{len(rows)} rows of {numbers}")


if __name__ == "__main__":
    main()
