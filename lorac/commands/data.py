"""`lorac check`, `label`: look data over, clean it, write captions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lorac.commands.calling import A_PATH, JSON, command, debugging
from lorac.terminal import print_json, progress, say

if TYPE_CHECKING:
    from lorac.check import Finding


@command(
    "check",
    click.argument("place", metavar="DIR|FILE", type=A_PATH),
    click.option(
        "--resolution",
        metavar="PIXELS",
        type=click.IntRange(64, 2048),
        default=512,
        show_default=True,
        help="What the pictures are to be trained at.",
    ),
    click.option("--trigger", metavar="WORDS", default="", help="What each caption should hold."),
    click.option(
        "--masks", metavar="FOLDER", type=A_PATH, help="Where in DIR the masks are (Images(mask_path=…))."
    ),
    click.option(
        "--clips/--pictures",
        "clips",
        default=None,
        help="What DIR holds (default: by what lies in it). Clips are folders of frames, or animations.",
    ),
    click.option(
        "--frames",
        metavar="COUNT",
        type=click.IntRange(2, 64),
        default=14,
        show_default=True,
        help="What clips are to be trained at.",
    ),
    click.option(
        "--fix", "out", metavar="OUT", type=A_PATH, help="Write a cleaned copy of the pictures there."
    ),
    click.option(
        "--held-out", metavar="FILE", type=A_PATH, multiple=True, help="Text that is measured on; repeatable."
    ),
    click.option(
        "--length",
        metavar="TOKENS",
        type=click.IntRange(1),
        default=2048,
        show_default=True,
        help="What texts are to be trained at.",
    ),
    click.option("--strict", is_flag=True, help="Warnings, too, end in exit code 3."),
    JSON,
)
def check(
    place: Path,
    resolution: int,
    trigger: str,
    masks: Path | None,
    clips: bool | None,
    frames: int,
    out: Path | None,
    held_out: tuple[Path, ...],
    length: int,
    strict: bool,
    as_json: bool,
) -> int:
    """Say what is wrong with pictures and captions, with clips, or with a text set.

    Each finding with the file and what to do, the worst first. Errors are what `lorac plan` refuses, or what makes
    its figures wrong; warnings will train badly; notes may be meant. The exit code is 3 where there are errors, with
    --strict where there are errors or warnings, else 0.

    The original is never touched: --fix writes a copy with pictures upright,
    in 8-bit sRGB, over white, without borders and identical files.
    """
    from lorac.check.clips import are_clips
    from runtime.safeio.images import SUFFIXES

    if clips or (clips is None and are_clips(place)):
        if out is not None or masks is not None or trigger:
            raise click.UsageError(
                "--fix, --masks and --trigger are for pictures, and these are clips; --pictures if they are not"
            )
        findings = _check_clips(place, resolution, frames, clips is None, as_json)
        return _exit_code(findings, strict)
    is_pictures = place.is_dir() and any(path.suffix.lower() in SUFFIXES for path in place.rglob("*"))
    if is_pictures:
        if masks is not None and out is not None:
            raise click.UsageError("--fix copies no masks: a picture that it crops would not fit its own")
        return _exit_code(_check_pictures(place, resolution, trigger, masks, out, as_json), strict)
    if out is not None:
        raise click.UsageError("--fix is for a folder of pictures")
    if masks is not None:
        raise click.UsageError("--masks is for a folder of pictures")
    return _exit_code(_check_texts(place, held_out, length, as_json), strict)


@command(
    "label",
    click.argument("folder", metavar="DIR", type=A_PATH),
    click.option(
        "--model", metavar="NAME|DIR", help="A CLIP, a captioner or a tagger (default: ViT-L-14/openai)."
    ),
    click.option("--trigger", metavar="WORDS", help="What each caption starts with."),
    click.option("--prefix", metavar="TEXT", help='What stands before the model\'s words: "a drawing of".'),
    click.option("--suffix", metavar="TEXT", help="What each caption ends with."),
    click.option(
        "--max-tags", metavar="N", type=click.IntRange(1), help="Words or tags of a caption (default: 8)."
    ),
    click.option(
        "--words",
        metavar="FILE|DIR",
        type=A_PATH,
        multiple=True,
        help="More words for a CLIP, in subject.txt, medium.txt, …; a folder stands in for ours.",
    ),
    click.option("--again", is_flag=True, help="Write anew what a model wrote before."),
    JSON,
)
def label(folder: Path, words: tuple[Path, ...], again: bool, as_json: bool, **settings: Any) -> int:
    """Write captions to DIR/metadata.csv, by a model.

    By open_clip, the words of its lists that suit a picture best; or by any captioner or tagger of Transformers. What
    a person wrote or edited is never overwritten; after a stop the same command goes on.
    """
    from lorac import launch

    given = {name.replace("_", "-"): value for name, value in settings.items() if value is not None}
    options = [f"--{name}={value}" for name, value in given.items()]
    options += [f"--words={path}" for path in words]
    options += ["--again"] * again + ["--json"] * as_json + ["--debug"] * debugging()
    return launch.start("runtime.label", folder, options)


def _exit_code(findings: Sequence[Finding], strict: bool) -> int:
    from lorac.check import fails
    from runtime.errors import InputError

    return InputError.exit_code if fails(findings, strict) else 0


def _check_pictures(
    place: Path, resolution: int, trigger: str, masks: Path | None, out: Path | None, as_json: bool
) -> list[Finding]:
    import attrs

    from lorac.check import FAULTS
    from lorac.check import check as checked
    from lorac.check.fix import check_place, fix
    from lorac.check.report import changes_text, findings_text
    from lorac.check.scan import scan
    from runtime.errors import SpecError
    from runtime.safeio import paths

    if out is not None:
        check_place(place, out)
    mask_path = None if masks is None else masks.as_posix()
    if mask_path is not None:
        paths.inside(place, mask_path, where="--masks", error=SpecError)
    with _progress("check") as tell:
        seen = scan(place, resolution, trigger, mask_path=mask_path, progress=tell)
    findings = checked(FAULTS, seen)
    changes = None
    if out is not None:
        with _progress("fix") as tell:
            changes = fix(seen, out, tell)
    if as_json:
        print_json(
            {
                "pictures": len(seen.folder.pictures),
                "findings": [attrs.asdict(one) for one in findings],
                "changes": None if changes is None else [attrs.asdict(one) for one in changes],
            }
        )
        return findings
    say(findings_text(seen.shown(""), f"{len(seen.folder.pictures):,} pictures", findings))
    if out is not None and changes is not None:
        kept = len(seen.folder.pictures) - sum(not one.copy for one in changes)
        say("\n" + changes_text(out.as_posix(), kept, changes))
    return findings


def _check_clips(place: Path, resolution: int, frames: int, by_looks: bool, as_json: bool) -> list[Finding]:
    import attrs

    from lorac.check import check as checked
    from lorac.check.clips import FAULTS, scan
    from lorac.check.report import findings_text

    with _progress("check", "clips") as tell:
        seen = scan(place, resolution, frames, tell)
    findings = checked(FAULTS, seen)
    if as_json:
        print_json(
            {
                "clips": len(seen.found),
                "frames": frames,
                "findings": [attrs.asdict(one) for one in findings],
            }
        )
        return findings
    say(findings_text(place.as_posix(), f"{len(seen.found):,} clips of {frames} frames", findings))
    if by_looks:
        say("\ntaken for clips by what lies there: folders of numbered frames, or animations (--pictures)")
    return findings


def _check_texts(place: Path, held_out: tuple[Path, ...], length: int, as_json: bool) -> list[Finding]:
    import attrs

    from lorac.check import check as checked
    from lorac.check import texts
    from lorac.check.report import findings_text

    files = texts.files_in(place)
    if not files:
        raise texts.no_files(place)
    read = texts.read(files, held_out, length)
    findings = checked(texts.FAULTS, read)
    if as_json:
        print_json(
            {
                "train": len(read.train),
                "held_out": len(read.held_out),
                "findings": [attrs.asdict(one) for one in findings],
            }
        )
        return findings
    of = f"{len(read.train):,} samples to train on, {len(read.held_out):,} held out"
    say(findings_text(place.as_posix(), of, findings))
    return findings


@contextmanager
def _progress(job: str, of: str = "pictures") -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, silent elsewhere."""
    with progress() as tell:
        yield lambda done, total: tell(job, f"{done:,} of {total:,} {of}", done / total)
