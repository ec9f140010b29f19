"""`python -m tests.torture`: kill runs at random, go on with each, and compare every byte with an undisturbed run.

- A trial is one run of a picture or a text plan on a tiny base. It is killed by SIGKILL up to `LIVES` times: one kill
  in three at a random operation inside its folder of checkpoints, the others at a random time. Then it goes on to its
  end, and each file that its manifest names must have the bytes of the undisturbed run.
- A checkpoint is lost if a life does not go on from the newest whole one that the life before had left.
- What is random follows from the trial's number. The figures are written after each trial: a campaign that was
  stopped goes on, and `--kills` is how many there are to be in all.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import attrs
import cattrs

from runtime import checkpoint, plan
from runtime.export import manifest as manifests
from runtime.safeio import atomic
from tests import texts
from tests.life import COUNTED, SAID, Lives
from tests.lorac.bad_data import good
from tests.runtime.plans import tiny_plan

LIVES = 3
"""Kills of one run."""

MEDIA = ("images", "text")


@attrs.define(kw_only=True)
class Figures:
    """A campaign's. `equal` are trials that ended in the undisturbed run's bytes; `failures` say which did not."""

    command: str = ""
    trials: int = 0
    equal: int = 0
    kills: int = 0
    kills_in_a_save: int = 0
    kills_of: dict[str, int] = attrs.field(factory=lambda: dict.fromkeys(MEDIA, 0))
    resumed_from_a_checkpoint: int = 0
    lost_checkpoints: int = 0
    failures: list[str] = attrs.field(factory=list)
    seconds: float = 0.0


@attrs.frozen(kw_only=True)
class Subject:
    """A plan, with what its undisturbed run made, took and did in its checkpoints."""

    plan: Path
    plan_hash: str
    files: dict[str, str]
    seconds: float
    operations: int


def subjects(work: Path, lives: Lives) -> dict[str, Subject]:
    """Both plans, each run once undisturbed."""
    from lorac import ScheduleFreeAdamW
    from runtime.families import causal_lm, sd1

    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    good(work / "pictures", 6)
    rows = texts.write(work / "questions.jsonl", texts.questions())
    pictures = tiny_plan(
        sd1.tiny(work / "sd1"), work / "pictures", dropout=0.1, ema=0.9, micro_batch=2, accumulation=2
    )
    optimizer = ScheduleFreeAdamW()
    text = texts.planned(
        causal_lm.tiny(work / "lm"), rows, work, optimizer=optimizer, scheduler="constant", dropout=0.1
    )
    return {
        "images": undisturbed(pictures, work / "images", lives),
        "text": undisturbed(text, work / "text", lives),
    }


def undisturbed(of: plan.Plan, folder: Path, lives: Lives) -> Subject:
    """Carry a plan out twice, so that the seconds are of a run that finds its data encoded."""
    file, places = folder / "plan.json", of.outputs.places
    at = attrs.evolve(places, base=str(folder.parent / places.base), data=str(folder.parent / places.data))
    plan.write(attrs.evolve(of, outputs=attrs.evolve(of.outputs, places=at)), file)
    made = []
    for name in ("first", "second"):
        began = time.monotonic()
        ended = lives.live(file, folder / name)
        seconds = time.monotonic() - began
        assert ended.code == 0, (folder / name / SAID).read_text()
        made.append(hashes(folder / name))
    assert made[0] == made[1], "two undisturbed runs differ"
    return Subject(
        plan=file,
        plan_hash=of.plan_hash,
        files=made[0],
        seconds=seconds,
        operations=(folder / "second" / COUNTED).stat().st_size,
    )


def hashes(folder: Path) -> dict[str, str]:
    """The files that a finished run's manifest names."""
    (manifest,) = (folder / "out").glob("*.lorac.json")
    return {file.name: file.sha256 for file in manifests.read(manifest).files}


def trial(number: int, subject: Subject, folder: Path, lives: Lives, of: str, figures: Figures) -> None:
    """Kill one run a few times, let it end, and take down what became of it."""
    drawn = random.Random(f"trial {number}")
    for life in range(LIVES):
        in_a_save = (number * LIVES + life) % 3 == 0
        before = newest(folder)
        ended = lives.live(
            subject.plan,
            folder,
            operation=drawn.randint(1, subject.operations) if in_a_save else None,
            seconds=None if in_a_save else drawn.uniform(0, subject.seconds),
        )
        went_on(folder, before, figures)
        if ended.code == 0:
            break  # it ended before it could be killed
        if ended.code != -signal.SIGKILL:
            figures.failures.append(f"trial {number}, life {life}: exit code {ended.code}")
            return
        figures.kills += 1
        figures.kills_in_a_save += in_a_save
        figures.kills_of[of] += 1
    before = newest(folder)
    ended = lives.live(subject.plan, folder)
    went_on(folder, before, figures)
    if ended.code != 0:
        figures.failures.append(f"trial {number}: the last life's exit code is {ended.code}")
    elif (made := hashes(folder)) != subject.files:
        other = sorted(name for name in subject.files if made.get(name) != subject.files[name])
        figures.failures.append(f"trial {number}: other bytes in {', '.join(other)}")
    else:
        figures.equal += 1


def newest(folder: Path) -> str:
    """The newest whole checkpoint's name, "" where there is none."""
    found = checkpoint.whole(folder / "out" / "checkpoints")
    return found[-1].name if found else ""


def went_on(folder: Path, before: str, figures: Figures) -> None:
    """Count from where the life that has just ended went on, if it came so far as to say so."""
    said = folder / SAID
    text = said.read_text(encoding="utf-8") if said.exists() else ""
    said.unlink(missing_ok=True)
    if "Training started" not in text or not before:
        return
    found = re.search(r"Resuming from (step-\d+)", text)
    if found is not None and found[1] == before:
        figures.resumed_from_a_checkpoint += 1
    else:
        figures.lost_checkpoints += 1


def campaign(kills: int, work: Path, out: Path) -> Figures:
    """Go on with the figures in `out` until there are so many kills."""
    figures = cattrs.structure(json.loads(out.read_text()), Figures) if out.exists() else Figures()
    figures.command = f"python -m tests.torture --kills {kills}"
    lives = Lives()
    if figures.kills < kills:
        found = subjects(work, lives)
    while figures.kills < kills:
        began = time.monotonic()
        number, of = figures.trials, MEDIA[figures.trials % len(MEDIA)]
        folder = work / of / f"trial-{number}"
        trial(number, found[of], folder, lives, of, figures)
        figures.trials += 1
        figures.seconds = round(figures.seconds + time.monotonic() - began, 1)
        out.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(out, json.dumps(cattrs.unstructure(figures), indent=2) + "\n")
        if figures.equal == figures.trials:
            shutil.rmtree(folder)
        print(
            f"{figures.kills} kills in {figures.trials} runs, {figures.equal} ended in the same bytes",
            flush=True,
        )
    return figures


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 1 where a run did not end in the same bytes, or a checkpoint was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="how many in all (default: 20)")
    parser.add_argument("--work", type=Path, default=Path(".cache/torture"), help="where the runs are")
    parser.add_argument("--out", type=Path, default=Path("docs/torture.json"), help="where the figures are")
    options = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    figures = campaign(options.kills, options.work.resolve(), options.out)
    print(
        f"{figures.kills} kills ({figures.kills_in_a_save} inside a save) of {figures.trials} runs:"
        f" {figures.equal} ended in the same bytes, {figures.lost_checkpoints} checkpoints were lost"
    )
    return int(figures.equal != figures.trials or figures.lost_checkpoints > 0)


if __name__ == "__main__":
    raise SystemExit(main())
