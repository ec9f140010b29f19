"""The language benchmark's bars: `python -m tests.bench.language.chart docs/bench_language.json` writes the .svg."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.safeio.atomic import write_text
from tests.bench.plot import Panel, bar, svg

TITLE = "Language: lorac, peft with Transformers' Trainer, TRL's SFTTrainer, LitGPT"
SHOWN = {
    "trained_per_cpu_second": ("trained tokens per CPU second (more is better)", 1.0),
    "peak_bytes": ("peak memory, MiB (less is better)", 2.0**-20),
    "start_seconds": ("seconds from the command to the first step (less is better)", 1.0),
}


def panels(found: Mapping[str, Any]) -> list[Panel]:
    """Each figure of each kind of batch and precision, which alone are compared."""
    return [
        Panel(
            f"{kind}: {words}",
            tuple(bar(way, figure, scale) for way in found["ways"] if way["runs"] and way["kind"] == kind),
        )
        for kind in sorted({way["kind"] for way in found["ways"]})
        for figure, (words, scale) in SHOWN.items()
    ]


def main(path: Path) -> None:
    write_text(path.with_suffix(".svg"), svg(panels(json.loads(path.read_text(encoding="utf-8"))), TITLE))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
