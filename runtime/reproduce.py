"""`python -m runtime.reproduce RUN`: carry a finished run's plan out again, elsewhere, and compare every byte.

Of the exported files only the manifest holds dates; all others must come out the same on the same machine with the same
package versions.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from runtime import __main__ as carrying
from runtime import plan
from runtime.ending import ended
from runtime.errors import InputError, Problem, SpecError
from runtime.safeio import digest, paths
from runtime.verify import manifest_of


def reproduce(run: Path, again: Path, accept_versions: bool) -> list[Problem]:
    """What came out otherwise: nothing, if all is well. Raises what a run raises, and SpecError where `again` is not
    empty."""
    manifest, _ = manifest_of(run)
    if again.exists() and any(again.iterdir()) and not (again / "plan.json").exists():
        hint = "give another folder: --output DIR"
        raise SpecError(Problem(paths.display(again), "is not empty", hint))
    of = plan.read(run / "plan.json")
    if of.plan_hash != manifest.plan_hash:
        raise InputError(Problem(f"{run.name}/plan.json", "is not the plan that the manifest names"))
    options = [str(run / "plan.json"), f"--output={again}", *["--accept-versions"] * accept_versions]
    carrying.carry_out(carrying.parser().parse_args(options))
    problems = []
    for file in manifest.files:
        made = again / file.name
        if not made.is_file():
            problems.append(Problem(file.name, "was not made this time"))
        elif digest.sha256_file(made) != file.sha256:
            problems.append(Problem(file.name, "came out with other bytes"))
    return problems


def main(arguments: Sequence[str] | None = None) -> int:
    """Run again and say whether the bytes are the same; exit code 3 where they are not."""
    parser = argparse.ArgumentParser(prog="python -m runtime.reproduce", allow_abbrev=False)
    parser.add_argument("run", type=Path, help="a finished run's folder")
    parser.add_argument("--output", type=Path, help="where to run again (default: RUN-again)")
    parser.add_argument("--accept-versions", action="store_true", help="run with other package versions")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    options = parser.parse_args(arguments)
    return ended(lambda: _show(options), lambda: options.debug)


def _show(options: argparse.Namespace) -> None:
    run: Path = options.run
    again = options.output or run.with_name(f"{run.name}-again")
    problems = reproduce(run, again, options.accept_versions)
    manifest, _ = manifest_of(run)
    if problems:
        hint = f"compare machines and versions: {run.name} was made on {manifest.run.device}"
        raise InputError([Problem(one.where, one.what, hint) for one in problems])
    count, shown = len(manifest.files), paths.display(again)
    sys.stdout.write(f"{count} files of {run.name} came out again byte for byte, in {shown}\n")


if __name__ == "__main__":
    sys.exit(main())
