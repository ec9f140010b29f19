"""Label a folder of pictures: see `runtime.label`. Works without lorac."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from runtime import log
from runtime.ending import ended
from runtime.errors import InputError, Interrupted, Problem, SpecError, visible
from runtime.label import table, words
from runtime.safeio import images, paths, strict_json

BATCH = 8
"""Pictures that a model looks at together."""

KEPT_EVERY = 32
"""Pictures between two writes of the table: what a crash costs."""

MODEL = "ViT-L-14/openai"
"""CLIP-Interrogator's for Stable Diffusion 1.x, whose text encoder belongs to it."""

EXAMPLES = 3
"""Captions that the summary shows."""


@attrs.frozen(kw_only=True)
class Done:
    """What came of it: numbers of pictures, and those that could not be read."""

    pictures: int
    labelled: int
    by_hand: int
    unchanged: int
    unreadable: list[Problem]
    examples: dict[str, str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, label, and turn every end into its exit code (see `runtime.errors`)."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a console that lacks a character
    options = parser().parse_args(arguments)
    return ended(lambda: carry_out(options), lambda: options.debug)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m runtime.label",
        description="Write a caption for each picture of a folder to its metadata.csv.",
        allow_abbrev=False,
    )
    made.add_argument("folder", type=Path, help="the folder of pictures")
    made.add_argument("--model", default=MODEL, help="a name or a folder: a CLIP, a captioner or a tagger")
    made.add_argument("--trigger", default="", help="words that every caption starts with")
    made.add_argument(
        "--prefix", default="", help="what stands before the model's words, such as 'a drawing of'"
    )
    made.add_argument("--suffix", default="", help="what every caption ends with")
    made.add_argument(
        "--max-tags", type=int, default=8, help="words of a CLIP's lists, or a tagger's tags, at most"
    )
    made.add_argument(
        "--words", type=Path, action="append", default=[], help="a list of words, or a folder of them"
    )
    made.add_argument("--again", action="store_true", help="write anew what a model wrote before")
    made.add_argument("--json", action="store_true", help="print a JSON summary")
    made.add_argument("--debug", action="store_true", help="show tracebacks")
    return made


def carry_out(options: argparse.Namespace) -> None:
    """Label what is to be labelled and say what was done. Raises LoracError."""
    if options.max_tags < 1:
        raise SpecError(Problem("--max-tags", f"must be at least 1, got {options.max_tags}"))
    with log.apart(options.json):
        done = label(options)
    if options.json:
        summary = attrs.asdict(done, recurse=False)
        del summary["examples"]
        summary["unreadable"] = [problem.where for problem in done.unreadable]
        sys.stdout.write(strict_json.canonical({"model": options.model, **summary}))
        return
    rest = [f"{done.by_hand:,} written by hand and kept"] * bool(done.by_hand)
    rest += [f"{done.unchanged:,} labelled before"] * bool(done.unchanged)
    said = ", ".join([f"{done.pictures:,} pictures: {done.labelled:,} labelled by {options.model}", *rest])
    lines = [said, *(f"  {name}: {caption}" for name, caption in done.examples.items())]
    lines += [f"warning: {problem}" for problem in done.unreadable]
    lines.append(f"wrote {paths.display(options.folder / table.TABLE)}")
    sys.stdout.write("".join(f"{visible(line)}\n" for line in lines))


def label(options: argparse.Namespace) -> Done:
    """Caption each picture that has no caption, or one that we made otherwise. Raises LoracError."""
    pictures = table.pictures_in(options.folder)
    made = table.read(options.folder, pictures)
    lists = words.lists(options.words)
    by = _digest(options, lists)
    by_hand = {name for name in pictures if made.is_by_hand(name)}
    todo = [
        name for name in pictures if name not in by_hand and (options.again or not made.is_done(name, by))
    ]
    unreadable: list[Problem] = []
    labelled: list[str] = []
    if todo:
        from runtime.label import labeller

        describe = labeller.load(options.model, lists, options.max_tags)
        with log.Bar("label", len(todo)) as bar, _kept(made, labelled, len(todo)):
            for at in range(0, len(todo), BATCH):
                batch = dict(_opened(todo[at : at + BATCH], pictures, unreadable))
                if batch:
                    for name, said in zip(batch, describe(list(batch.values())), strict=True):
                        made.put(name, _caption(said, options), by)
                        labelled.append(name)
                if at % KEPT_EVERY == KEPT_EVERY - BATCH:
                    made.save()
                bar.step(min(BATCH, len(todo) - at))
    else:
        made.save()  # captions that stood beside the pictures come into the table
    return Done(
        pictures=len(pictures),
        labelled=len(labelled),
        by_hand=len(by_hand),
        unchanged=len(pictures) - len(by_hand) - len(todo),
        unreadable=unreadable,
        examples={name: made.captions[name] for name in labelled[:EXAMPLES]},
    )


def _digest(options: argparse.Namespace, lists: dict[str, tuple[str, ...]]) -> str:
    """Over everything that decides a caption but the picture and the model's weights."""
    how = {name: getattr(options, name) for name in ("model", "trigger", "prefix", "suffix", "max_tags")}
    return strict_json.sha256({**how, "lists": lists})


def _opened(
    names: Sequence[str], pictures: dict[str, Path], unreadable: list[Problem]
) -> Iterator[tuple[str, Any]]:
    for name in names:
        try:
            yield name, images.open_picture(pictures[name])
        except InputError as error:
            unreadable += error.problems


def _caption(said: Sequence[str], options: argparse.Namespace) -> str:
    """`trigger, prefix words, suffix`, on one line."""
    parts = (options.trigger, f"{options.prefix} {', '.join(said)}", options.suffix)
    return ", ".join(" ".join(part.split()) for part in parts if part.strip())


@contextmanager
def _kept(made: table.Table, labelled: list[str], total: int) -> Iterator[None]:
    """What was labelled is written, however this ends. Raises Interrupted in the place of KeyboardInterrupt."""
    try:
        yield
    except KeyboardInterrupt:
        what = f"stopped; {len(labelled):,} of {total:,} captions are written"
        raise Interrupted(Problem("", what, "the same command goes on from there")) from None
    finally:
        made.save()


if __name__ == "__main__":
    sys.exit(main())
