"""Where the time of a step goes: `python -m tests.bench.profile --out docs`.

The demo's step on the emoji base and the language demo's on SmolLM2, each as its plan says, on some threads.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import cattrs

from lorac.calibrate import calibrate
from runtime.safeio.atomic import write_text
from tests.bench.figures import machine as on
from tests.bench.figures import versions
from tests.bench.profile import report
from tests.bench.profile.measure import measured
from tests.bench.profile.step import parts

SPECS = Path(__file__).parents[3] / "specs"
STEPS = {"quickstart": 10, "chat_quickstart": 3}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.profile", description=__doc__)
    parser.add_argument("--out", type=Path, help="folder for profile.json and .md; they are printed anyway")
    parser.add_argument("--only", default=",".join(STEPS), help="specs, with commas")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    own = calibrate("cpu", options.threads)  # not kept: plans made on this machine go on as they were
    found = []
    for name in options.only.split(","):
        with tempfile.TemporaryDirectory(prefix="lorac-profile-") as work:
            found.append(measured(parts(SPECS / f"{name}.py", options.threads, Path(work)), own, STEPS[name]))
    figures = {
        "command": f"python -m tests.bench.profile {' '.join(sys.argv[1:])}".strip(),
        "machine": on(options.threads),
        "versions": versions(("torch", "diffusers", "transformers")),
        "limits": {"fp32": own.fp32, "bf16": own.bf16, "bandwidth": own.bandwidth},
        "steps": [{**cattrs.unstructure(one), "share": one.share} for one in found],
    }
    page = report.page(figures)
    if options.out:
        write_text(options.out / "profile.json", json.dumps(figures, indent=2) + "\n")
        write_text(options.out / "profile.md", page)
    sys.stdout.write(page)


if __name__ == "__main__":
    main()
