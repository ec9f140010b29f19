"""Predictions against this machine's GPU: `python -m tests.validate.gpu [--minutes N]` (or `just validate-gpu`).

Each case of `gpu_case.grid` is predicted from fake tensors and then really trained for some steps, in a process of its
own so that peaks and contexts do not mix. Writes docs/gpu.json and docs/gpu.md.

- Finished cases are kept, one line of JSON each, in .cache/gpu.jsonl: the same command goes on where it was stopped,
  and `--minutes 0` only writes the report. They are of this device, driver and these package versions only;
  `--fresh` measures anew after a change to the code.
- `--again` needs no GPU: it takes docs/gpu.json and predicts its cases anew, after a change to the model of memory.
- Without a GPU it ends with exit code 5.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import attrs
import cattrs
import torch

from lorac.estimate import cards
from lorac.estimate.cards import Card
from lorac.places import cache_folder, versions
from runtime.ending import ended
from runtime.errors import InputError, MachineError, Problem
from runtime.safeio import atomic
from tests.validate.gpu_case import Case, Predicted, grid, predict
from tests.validate.gpu_measure import Measured
from tests.validate.gpu_report import Outcome, Report, Row, broken, page

ROOT = Path(__file__).parents[2]
COMMAND = "python -m tests.validate.gpu"
LONGEST = 300
"""Seconds after which a case's process is ended."""
DRIVER = Path("/proc/driver/nvidia/version")


@attrs.frozen(kw_only=True)
class Kept:
    """A finished case and the machine it was measured on: a line of .cache/gpu.jsonl."""

    machine: dict[str, str]
    row: Row


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, or predict anew; the exit code (see `runtime.errors`)."""
    warnings.filterwarnings("ignore")
    options = parser().parse_args(arguments)
    return ended(lambda: again(options.docs) if options.again else validate(options))


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").splitlines()[0])
    made.add_argument(
        "--minutes", type=float, default=float("inf"), help="start no case that would end later"
    )
    made.add_argument(
        "--rows", type=Path, default=ROOT / ".cache/gpu.jsonl", help="where finished cases are kept"
    )
    made.add_argument("--docs", type=Path, default=ROOT / "docs", help="where gpu.json and gpu.md go")
    made.add_argument("--fresh", action="store_true", help="forget what was measured before")
    made.add_argument("--again", action="store_true", help="predict docs/gpu.json's cases anew; needs no GPU")
    return made


def validate(options: argparse.Namespace) -> None:
    """Measure what there is time for and write the report. Raises MachineError without a GPU."""
    card, machine = card_here(), machine_here()
    if options.fresh:
        options.rows.unlink(missing_ok=True)
    kept = [one.row for one in read(options.rows) if one.machine == machine]
    rows = {row.case: row for row in kept if row.outcome != "failed"}
    say(f"{machine['device']}: {len(rows)} of {len(grid())} cases are measured already")
    clock = Clock(options.minutes * 60)
    for case in grid():
        if case in rows or not clock.has_room():
            continue
        clock.begin()
        rows[case] = taken(case, predict(case, card, cache_folder()), used_bytes())
        append(options.rows, Kept(machine=machine, row=rows[case]))
        clock.end()
        say(words(rows[case]))
    report = Report(command=COMMAND, machine=machine, card=card, grid=len(grid()), rows=tuple(rows.values()))
    write(report, options.docs)


def again(docs: Path) -> None:
    """Predict the cases of docs/gpu.json anew, for the same card. Raises InputError if there is none."""
    path = docs / "gpu.json"
    if not path.exists():
        raise InputError(Problem(str(path), "is not there: nothing was measured yet"))
    before = cattrs.structure(json.loads(path.read_text(encoding="utf-8")), Report)
    folder = cache_folder()
    rows = [attrs.evolve(row, predicted=predict(row.case, before.card, folder)) for row in before.rows]
    write(attrs.evolve(before, rows=tuple(rows)), docs)


def write(report: Report, docs: Path) -> None:
    """docs/gpu.json and docs/gpu.md."""
    docs.mkdir(parents=True, exist_ok=True)
    atomic.write_text(docs / "gpu.json", json.dumps(cattrs.unstructure(report), indent=1) + "\n")
    atomic.write_text(docs / "gpu.md", page(report))
    say(f"wrote {docs / 'gpu.md'}: {len(report.rows)} cases, {len(broken(report))} said to fit that did not")


# ---------------------------------------------------------------------------------------------------- the machine


def card_here() -> Card:
    """The GPU, for lorac's predictions. Raises MachineError."""
    card = cards.detected()
    if card is None:
        raise MachineError(Problem("device", "no GPU that CUDA can use is here: nothing was measured"))
    return card


def machine_here() -> dict[str, str]:
    """The device's name, its driver's version, and those of the packages."""
    driver = DRIVER.read_text(encoding="utf-8").splitlines()[0] if DRIVER.exists() else "unknown"
    numbers = [word for word in driver.split() if word[:1].isdigit() and "." in word]
    return {"device": torch.cuda.get_device_name(0), "driver": (numbers or [driver])[0], **versions()}


def used_bytes() -> int:
    """Bytes of the card that are taken now, this process's own context among them."""
    free, total = torch.cuda.mem_get_info(0)
    return total - free


def taken(case: Case, predicted: Predicted, used: int) -> Row:
    """Measure a case in a process of its own; `used` as `used_bytes` says it now."""
    arguments = [json.dumps(attrs.asdict(case)), str(used)]
    outcome, said, measured = ended_as([sys.executable, "-m", "tests.validate.gpu_measure", *arguments])
    return Row(case=case, predicted=predicted, outcome=outcome, said=said, measured=measured)


def ended_as(command: Sequence[str]) -> tuple[Outcome, str, Measured | None]:
    """How a measuring process ends: its outcome, a failure's last words, its figures."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LONGEST)
    except subprocess.TimeoutExpired:
        return "failed", f"took longer than {LONGEST} s", None
    if done.returncode:
        return "failed", (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1], None
    found = json.loads(done.stdout.splitlines()[-1])
    return ("done", "", Measured(**found)) if found else ("out of memory", "", None)


@attrs.define
class Clock:
    """Whether there is time for one more case as long as the longest so far. Seconds."""

    limit: float
    started: float = attrs.field(factory=time.monotonic)
    longest: float = 0.0
    _began: float = 0.0

    def has_room(self) -> bool:
        return time.monotonic() - self.started + self.longest <= self.limit

    def begin(self) -> None:
        self._began = time.monotonic()

    def end(self) -> None:
        self.longest = max(self.longest, time.monotonic() - self._began)


# ----------------------------------------------------------------------------------------------------------- rows


def read(path: Path) -> list[Kept]:
    """The finished cases, oldest first. A line that a killed run left half written, or of another form, is left out."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            found.append(cattrs.structure(json.loads(line), Kept))
        except Exception:  # whatever is wrong with the line, the case is measured again
            continue
    return found


def append(path: Path, one: Kept) -> None:
    """Keep a finished case."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        # A line of its own, even after one that was left half written.
        file.write("\n" + json.dumps(cattrs.unstructure(one)) + "\n")


def words(row: Row) -> str:
    """A row as a line for the person who waits."""
    if row.measured is None:
        return f"{row.case}: {row.outcome} {row.said}".rstrip()
    gigabytes = f"{row.predicted.total / 1e9:.2f} GB predicted, {row.measured.total / 1e9:.2f} measured"
    return f"{row.case}: {gigabytes}, {row.predicted.seconds:.3f} s predicted, {row.measured.seconds:.3f}"


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
