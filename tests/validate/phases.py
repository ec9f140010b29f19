"""Every phase predicted and measured on this machine's CPU: `python -m tests.validate.phases` (`just validate-phases`).

Writes docs/phases.json and docs/phases.md. Each setting is planned by lorac as a user's would be, then really run,
twice: once recorded, for the live tensor bytes of each phase; once in a process of its own, for its resident memory.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import attrs
import numpy as np
from PIL import Image

from lorac import Answers, Experiment, Fit, Images, LoRA, Outputs, Samples, Train
from lorac.compile import compile_experiment
from lorac.estimate.trace import measure, phase
from runtime import answers, checkpoint, evaluate, plan, preflight
from runtime import run as running
from runtime import train as training
from runtime.families import family
from runtime.media import pictures, text
from runtime.preflight import Where
from runtime.sampling import Studio
from tests import texts

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
EMOJI = ROOT / "specs" / "emoji" / "base"
SMOLLM2 = ROOT / ".cache" / "smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
"""The language demo's base: `python specs/smollm2/get_base.py` brings it."""
PACKAGES = ("torch", "diffusers", "transformers", "peft")
MIB = 2**20
PHASES = ("load", "cache", "train", "evaluate", "save", "sample")


@attrs.frozen(kw_only=True)
class Setting:
    """A small run. `base` is "tiny", a random model of some MB, or "emoji", the demo's; of language models "tiny_lm",
    a random one, or "smollm2", the language demo's."""

    name: str
    base: str
    parts: dict[str, Any]


def settings() -> list[Setting]:
    """Runs that differ in what decides memory."""
    drawn = Samples(prompts=("noise",), steps=2)
    large = Samples(prompts=("noise",), steps=2, width=256, height=256)
    plain = Samples(prompts=("noise",), steps=2, guidance=1.0)
    said = Answers(prompts=("Say 3",), max_tokens=4)

    def setting(name: str, base: str, **parts: Any) -> Setting:
        return Setting(name=name, base=base, parts=parts)

    return [
        setting("tiny, batch 2", "tiny", samples=drawn),
        setting("tiny, batch 1, drawn at 256 px", "tiny", batch=1, samples=large),
        setting("tiny, batch 2, text encoder trained", "tiny", samples=drawn, text_encoder=True),
        setting("emoji, batch 4", "emoji", batch=4, samples=drawn),
        setting("emoji, batch 1, nothing drawn", "emoji", batch=1),
        setting("emoji, batch 4, recomputed", "emoji", batch=4, samples=plain, recomputed=True),
        setting("emoji, batch 2, bf16", "emoji", samples=drawn, dtype="bf16"),
        setting("emoji, batch 2, 128 px, rank 32", "emoji", samples=drawn, side=128, rank=32),
        setting("tiny language model, held out", "tiny_lm", length=80, steps=2, held_out=0.3, samples=said),
        setting("SmolLM2-135M, GGUF, held out", "smollm2", steps=2, held_out=0.3, samples=said, length=256),
    ]


@attrs.frozen(kw_only=True)
class Compared:
    """Bytes of each phase's live tensors, and of the process: predicted and measured, `host_short` as the runtime
    sets the heap up where main memory is short."""

    name: str
    predicted: dict[str, int]
    measured: dict[str, int]
    host_predicted: int
    host_measured: int
    host_short: int


def experiment(
    one: Setting,
    base: Path,
    data: Path,
) -> Experiment:
    """The setting as a user would write it."""
    said = {
        "batch": 2,
        "side": 64,
        "rank": 4,
        "dtype": "fp32",
        "text_encoder": False,
        "recomputed": False,
        "held_out": 0.0,
        "samples": Samples(),
    }
    said |= one.parts
    return Experiment(
        name="measured",
        base=str(base),
        data=Images(str(data), resolution=said["side"], buckets=False, held_out=said["held_out"]),
        adapter=LoRA(rank=said["rank"], text_encoder=said["text_encoder"]),
        train=Train(effective_batch=said["batch"], steps=2),
        fit=Fit(
            card="cpu",
            threads=1,
            dtype=said["dtype"],
            micro_batch=said["batch"],
            gradient_checkpointing=said["recomputed"],
        ),
        samples=said["samples"],
        outputs=Outputs(save_steps=1),
    )


def compare(one: Setting, folder: Path, with_process: bool = True) -> Compared:
    """Plan it, run it recorded, and run it again alone."""
    made = compile_experiment(written(one, folder), folder, folder, card="cpu")
    measured = recorded(made, places(made, folder / "recorded"))
    return Compared(
        name=one.name,
        predicted=made.estimate.phases,
        measured={name: measured[name] for name in made.estimate.phases},
        host_predicted=made.estimate.host_bytes,
        host_measured=alone(made, places(made, folder / "alone")) if with_process else 0,
        host_short=alone(made, places(made, folder / "short"), short=True) if with_process else 0,
    )


def written(one: Setting, folder: Path) -> Experiment:
    """The setting's experiment, over data and, where it is a random one, a base in `folder`."""
    if one.base in ("tiny_lm", "smollm2"):
        base = SMOLLM2 if one.base == "smollm2" else family("causal_lm").tiny(folder / "base")
        return texts.experiment(
            base, texts.write(folder / "data" / "words.jsonl", texts.questions(60)), **one.parts
        )
    base = EMOJI if one.base == "emoji" else family("sd1").tiny(folder / "base")
    return experiment(one, base, noise(folder / "data", one.parts.get("side", 64)))


def noise(folder: Path, side: int) -> Path:
    """Six pictures of noise with captions."""
    folder.mkdir(parents=True)
    rows = ["image,prompt"]
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        rows.append(f'{number}.png,"noise {number}"')
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def places(of: plan.Plan, folder: Path) -> Where:
    """A run's places below a folder; what is encoded is not shared."""
    folder.mkdir()
    root = folder.parent
    return Where(
        base=root / of.outputs.places.base,
        data=root / of.outputs.places.data,
        output=folder / "out",
        log=folder / "logs",
        cache=folder / "cache",
    )


# -------------------------------------------------------------------------------------------------------- measuring


def recorded(of: plan.Plan, where: Where) -> dict[str, int]:
    """Live tensor bytes at each phase's peak of the runtime's own run."""

    def make() -> Callable[[], None]:
        def step() -> None:
            with named():
                preflight.check(of, where)
                running.run(of, running.Options(where=where))

        return step

    return {name: peak.bytes for name, peak in measure(make, steps=1).phases.items()}


@contextmanager
def named() -> Iterator[None]:
    """The runtime's functions say which phase they are; nothing of what they do is changed."""
    owners: list[tuple[Any, str, str]] = [
        (running, "load", "load"),
        (pictures, "encode", "cache"),
        (text, "prepare", "cache"),
        (training, "one_step", "train"),
        (evaluate, "held_out", "evaluate"),
        (training, "save", "save"),
        (checkpoint, "save", "save"),
        (Studio, "draw", "sample"),
        (answers, "compare", "sample"),
    ]
    with ExitStack() as stack:
        for owner, attribute, name in owners:
            real = getattr(owner, attribute)

            def called(*args: Any, _real: Any = real, _name: str = name, **kwargs: Any) -> Any:
                with phase(_name):
                    return _real(*args, **kwargs)

            stack.enter_context(mock.patch.object(owner, attribute, called))
        yield


ALONE = """
import sys
from runtime import heap
from runtime.__main__ import main
heap.HELD = float(sys.argv[1])
code = main(sys.argv[2:])
from runtime.train import peak_memory
print(peak_memory())
sys.exit(code)
"""


def alone(of: plan.Plan, where: Where, short: bool = False) -> int:
    """The most that a process of its own had resident, where main memory is plenty or is taken to be `short`."""
    file = where.output.parent / "plan.json"
    plan.write(of, file)
    options = [f"--{name}={getattr(where, name)}" for name in ("base", "data", "output", "log")]
    environment = {**os.environ, "LORAC_CACHE": str(where.cache), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", ALONE, "inf" if short else "0", str(file), *options]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, cwd=ROOT)
    return int(done.stdout.split()[-1])


# ----------------------------------------------------------------------------------------------------------- report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.parse_args()
    warnings.filterwarnings("ignore")
    rows = []
    for one in settings():
        with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, LORAC_CACHE=f"{folder}/c"):
            rows.append(compare(one, Path(folder)))
            print(rows[-1].name, file=sys.stderr)
    report = {
        "command": "python -m tests.validate.phases",
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "rows": [attrs.asdict(row) for row in rows],
    }
    DOCS.mkdir(exist_ok=True)
    (DOCS / "phases.json").write_text(json.dumps(report, indent=1) + "\n")
    (DOCS / "phases.md").write_text(page(report))
    print((DOCS / "phases.md").read_text())


def page(report: dict[str, Any]) -> str:
    """The report for people."""
    rows = report["rows"]
    errors = {
        name: [row["predicted"][name] / row["measured"][name] - 1 for row in rows if name in row["predicted"]]
        for name in PHASES
    }
    return PAGE.format(
        command=report["command"],
        versions=", ".join(f"{name} {version}" for name, version in report["versions"].items()),
        rows="\n".join(_row(row) for row in rows),
        errors="\n".join(f"| {name} | {_summary(values)} |" for name, values in errors.items()),
        host_rows="\n".join(_host_row(row) for row in rows),
        host="\n".join(
            f"| {name} | {_summary([row['host_predicted'] / row[key] - 1 for row in rows])} |"
            for key, name in (("host_short", "short"), ("host_measured", "plenty"))
        ),
    )


def _row(row: dict[str, Any]) -> str:
    cells = (
        f"{row['predicted'][name] / MIB:.1f} / {row['measured'][name] / MIB:.1f}"
        if name in row["predicted"]
        else ""
        for name in PHASES
    )
    return f"| {row['name']} | {' | '.join(cells)} |"


def _host_row(row: dict[str, Any]) -> str:
    predicted, measured = row["host_predicted"], (row["host_short"], row["host_measured"])
    cells = (f"{size / MIB:.0f} | {predicted / size - 1:+.1%}" for size in measured)
    return f"| {row['name']} | {predicted / MIB:.0f} | {' | '.join(cells)} |"


def _summary(errors: list[float]) -> str:
    sizes = [abs(error) for error in errors]
    return f"{statistics.median(sizes):.2%} | {min(errors):+.2%} | {max(errors):+.2%}"


PAGE = """# Every phase, predicted against measured

Made by `{command}` with
{versions};
the rows as data are in `phases.json`. Each setting is planned as a user's would be (`--card cpu`), then really run by
the runtime; no GPU took part.

## Live tensor bytes

Predicted / measured MiB at each phase's peak. Measured is what the runtime's own functions hold at most while they
load, encode, train, evaluate, save and draw, by the recorder that the tracer uses, over real tensors.

| setting | load | cache | train | evaluate | save | sample |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
{rows}

| phase | median error | lowest | highest |
| --- | ---: | ---: | ---: |
{errors}

What a file's own dtype is stands in no plan: "load" takes it to be of the other width, two bytes or four, than what
it is cast to, which is the most that it can take. These bases are kept in fp16.

## The process

`host_bytes` against the most that a process of its own had resident (VmHWM of /proc/self/status; getrusage would show
the process that started it), in MiB. Where main memory is short the runtime has what is freed go back at once
(`runtime/heap.py`), and that is what the plan foresees. Where it is plenty, glibc keeps holes between what lives, which
is faster and in no plan.

| setting | predicted | measured, short | error | measured, plenty | error |
| --- | ---: | ---: | ---: | ---: | ---: |
{host_rows}

| main memory | median error | lowest | highest |
| --- | ---: | ---: | ---: |
{host}
"""


if __name__ == "__main__":
    main()
