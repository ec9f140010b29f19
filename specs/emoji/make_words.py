"""Make the words that the emoji CLIP labels by: `python specs/emoji/make_words.py --google DIR`.

A subject is a concept's prompt, as the base and the CLIP learned it; the looks are the CLIP's own words for the sets.
"""

from __future__ import annotations

from pathlib import Path

import click
from pictures import read_concepts

WORDS = Path(__file__).parent / "words"
# As make_clip.py says them of each set.
LOOKS = ("flat drawing", "shaded drawing")


def write(name: str, comment: str, words: list[str]) -> None:
    """A list as `lorac label --words` reads it."""
    WORDS.mkdir(exist_ok=True)
    lines = [f"# {comment}", *dict.fromkeys(words)]
    (WORDS / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


@click.command()
@click.option(
    "--google", type=click.Path(exists=True, path_type=Path), required=True, help="emoji-datasource-google"
)
def main(google: Path) -> None:
    """Write words/subject.txt and words/medium.txt beside this script."""
    concepts = read_concepts(google)
    write("subject", "Made by make_words.py: each emoji's name and subject.", [c.prompt for c in concepts])
    write("medium", "Made by make_words.py: what the two sets look like.", list(LOOKS))
    click.echo(f"{len(concepts)} concepts")


if __name__ == "__main__":
    main()
