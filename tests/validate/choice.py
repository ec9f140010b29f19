"""Does lorac choose the right checkpoint, and see what is learned by heart? On the demo's base, by the real commands.

    python -m tests.validate.choice [--seeds 4] [--out docs]      (`just validate-choice`)

Each run is the demo's with 400 steps at batch 4 and a candidate each 50, on 8 Twemoji pictures or on 100; the same 12
are held out in all of them. Then, a folder each, what is finished being skipped:

- `lorac run`, `lorac eval`, `lorac advise`, each as a process
- the truth: part A's metric (`specs/emoji/style.py`) of every candidate's own LoRA file, drawn by diffusers, on 24
  concepts that are neither trained on nor held out

The seed decides what is trained and, of the 8, which pictures. Figures go to choice.json and choice.md.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file

from runtime.data import held_out
from specs.emoji import style
from tests.validate import choice_report

ROOT = Path(__file__).parents[2]
EMOJI = ROOT / "specs" / "emoji"
FEW, MANY = 8, 100
HELD_OUT = 12
CONCEPTS = 24
DRAWN_STEPS = 10
"""Of the sampler, where the metric's own command takes 20: as many pictures of twice as many checkpoints."""
WEIGHT = 1.0
"""The LoRA's, everywhere: the held-out loss is measured at it."""
SPEC = """from lorac import Experiment, Fit, Images, LoRA, Outputs, Samples, Train

experiment = Experiment(
    name="{name}",
    base={base!r},
    data=Images(
        "data", resolution=64, buckets=False, trigger="twemoji style", flip=True, caption_dropout=0.1,
        held_out={held_out!r},
    ),
    adapter=LoRA(rank=16, targets="qkvo+ff+conv"),
    train=Train(
        effective_batch=4, steps=400, learning_rate=2e-3, scheduler="cosine", warmup_steps=40, snr_gamma=1.0,
        seed={seed},
    ),
    fit=Fit(card="cpu", threads=1),
    samples=Samples(
        prompts=(
            "worried face, face, twemoji style",
            "angry face, face, twemoji style",
            "kissing face, face, twemoji style",
            "face with medical mask, face, twemoji style",
            "relieved face, face, twemoji style",
            "pink heart, heart, twemoji style",
        ),
        steps={drawn_steps}, guidance=4.0, seed=7, every=400,
    ),
    outputs=Outputs(save_steps=50, keep_checkpoints=8, preferred_weight={weight}),
)
"""


@attrs.frozen
class Case:
    """One run: so many pictures to train on, and a seed."""

    pictures: int
    seed: int

    @property
    def name(self) -> str:
        return f"on-{self.pictures}-seed-{self.seed}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.validate.choice")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--work", type=Path, default=ROOT / ".cache" / "choice")
    parser.add_argument("--out", type=Path, help="the folder for choice.json and choice.md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for seed in range(options.seeds):
        for pictures in (FEW, MANY):
            carry_out(Case(pictures, seed), options.work)
    cases = [Case(pictures, seed) for pictures in (FEW, MANY) for seed in range(options.seeds)]
    command = f"python -m tests.validate.choice --seeds {options.seeds}"
    found = choice_report.figures([read(case, options.work) for case in cases], command)
    sys.stdout.write(choice_report.page(found))
    if options.out:
        (options.out / "choice.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        (options.out / "choice.md").write_text(choice_report.page(found), encoding="utf-8")


def carry_out(case: Case, work: Path) -> None:
    """All of a run that is not there yet."""
    folder, name = work / case.name, case.name
    if not (folder / "spec.py").is_file():
        write(case, folder)
    run = folder / "output" / name
    if not (run / f"{name}.lorac.json").is_file():
        lorac(folder, "run", "spec.py")
    if not (run / "evaluation.json").is_file():
        lorac(folder, "eval", f"output/{name}", "--weights", f"{WEIGHT}", "--checkpoints", "last")
    if not (run / "advice.json").is_file():
        lorac(folder, "advise", f"output/{name}")
    measure(run, folder / "truth")


def lorac(folder: Path, *arguments: str) -> None:
    """A command of lorac's, as a user calls it; what it says is kept."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "lorac", *arguments]
    with (folder / "said.log").open("a", encoding="utf-8") as log:
        subprocess.run(command, cwd=folder, env=environment, stdout=log, stderr=log, check=True)


# ------------------------------------------------------------------------------------------------------------- data


def write(case: Case, folder: Path) -> None:
    """The pictures with their captions, and the spec."""
    rows = known()
    held = held_out.by_digest([digest(path) for path in rows], HELD_OUT / len(rows), "held_out")
    learnt = sorted(path for path in rows if digest(path) not in held)
    chosen = random.Random(case.seed).sample(learnt, case.pictures)
    files = [*chosen, *(path for path in rows if digest(path) in held)]
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "data").mkdir(parents=True)
    with (folder / "data" / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "prompt"])
        table.writerows([path.name, rows[path]] for path in files)
    for path in files:
        shutil.copy(path, folder / "data")
    text = SPEC.format(
        name=case.name,
        base=str(EMOJI / "base"),
        held_out=HELD_OUT / len(files),
        seed=case.seed + 1,
        drawn_steps=DRAWN_STEPS,
        weight=WEIGHT,
    )
    (folder / "spec.py").write_text(text, encoding="utf-8")


def known() -> dict[Path, str]:
    """Every Twemoji face and heart but the concepts that the metric draws, with its caption."""
    drawn = {name for name, _ in style.held_out(CONCEPTS)}
    found = {}
    for part in ("train", "heldout"):
        folder = EMOJI / "twemoji" / part
        with (folder / "metadata.csv").open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["image"] not in drawn]
        found |= {folder / row["image"]: row["prompt"] for row in rows}
    return found


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# -------------------------------------------------------------------------------------------------------- the truth


def measure(run: Path, folder: Path) -> None:
    """The metric of every candidate, a file each: step.json, one number a concept."""
    folder.mkdir(exist_ok=True)
    concepts = style.held_out(CONCEPTS)
    loras = {int(path.stem[-6:]): path for path in run.glob("checkpoints/step-*/*-[0-9]*.safetensors")}
    wanted = [step for step in sorted(loras) if not (folder / f"{step:06}.json").is_file()]
    if not wanted:
        return
    others = [name for name, _ in style.held_out(None) if name not in dict(concepts)]
    vae = AutoencoderKL.from_pretrained(EMOJI / "base" / "vae", dtype=torch.float32)
    judge = style.Style(vae, others)
    real = {
        kind: style.pictures([EMOJI / kind / "heldout" / name for name, _ in concepts])
        for kind in ("twemoji", "noto")
    }
    for step in wanted:
        made = style.draw(EMOJI / "base", concepts, load_file(loras[step]), WEIGHT, 1, DRAWN_STEPS)
        found = style.measures(made, real, judge, 1)
        text = json.dumps({name: values.tolist() for name, values in found.items()})
        (folder / f"{step:06}.json").write_text(text, encoding="utf-8")


def read(case: Case, work: Path) -> choice_report.Found:
    """What is known of a finished run."""
    folder = work / case.name
    run = folder / "output" / case.name

    def json_of(path: Path) -> Any:
        return json.loads(path.read_text(encoding="utf-8"))

    metrics = [json.loads(line) for line in (run / "logs" / "metrics.jsonl").read_text().splitlines()]
    truth = {int(path.stem): json_of(path) for path in sorted((folder / "truth").glob("*.json"))}
    return choice_report.Found(
        pictures=case.pictures,
        seed=case.seed,
        chosen=json_of(run / f"{case.name}.lorac.json")["run"]["steps"],
        losses={row["step"]: row["held_out/loss"] for row in metrics if "held_out/loss" in row},
        truth=truth,
        evaluation=json_of(run / "evaluation.json"),
        advice=json_of(run / "advice.json"),
    )


if __name__ == "__main__":
    main()
