"""`python -m runtime PLAN.json`: carry out a plan. Works without lorac, so any launcher can start it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from runtime import plan, preflight
from runtime.ending import ended
from runtime.errors import PlanError, Problem
from runtime.preflight import Where


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run, and turn every end into its exit code (see `runtime.errors`)."""
    options = parser().parse_args(arguments)
    return ended(lambda: carry_out(options), lambda: options.debug)


def carry_out(options: argparse.Namespace) -> None:
    """Run the plan at its places."""
    of = plan.read(options.plan)
    where = places(of, options)
    preflight.check(of, where, options.accept_versions)
    from runtime.run import Options, run  # torch and the families are needed from here on

    run(of, Options(where=where, fault=fault()))


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m runtime", description="Carry out a lorac plan.", allow_abbrev=False
    )
    made.add_argument("plan", type=Path, help="plan.json")
    made.add_argument("--base", type=Path, help="where the base is, if not where it was planned")
    made.add_argument("--data", type=Path, help="where the data is, if not where it was planned")
    made.add_argument("--output", type=Path, help="where to write, if not where the plan says")
    made.add_argument("--log", type=Path, help="where TensorBoard's files go")
    made.add_argument(
        "--accept-versions", action="store_true", help="run with other package versions than planned"
    )
    made.add_argument("--debug", action="store_true", help="show tracebacks")
    return made


def places(of: plan.Plan, options: argparse.Namespace) -> Where:
    """The plan's places, from the folder that we run in. A plan alone cannot make us write outside of it."""
    named = of.outputs.places
    problems = []
    for field in ("output", "log"):
        place = getattr(named, field)
        if getattr(options, field) is None and not plan.is_inner(place):
            hint = f"if you want that, say so: --{field} {place}"
            problems.append(
                Problem(f"outputs.places.{field}", f"is outside the folder you run in: {place}", hint)
            )
    if problems:
        raise PlanError(problems)
    output = options.output or Path(named.output)
    return Where(
        base=options.base or Path(named.base),
        data=options.data or Path(named.data),
        output=output,
        log=options.log or (output / "logs" if options.output and not options.log else Path(named.log)),
        cache=Path(os.environ.get("LORAC_CACHE") or Path.home() / ".cache" / "lorac"),
    )


def fault() -> Callable[[int], None]:
    """A fault to inject, for tests: LORAC_FAULT=oom@12 raises torch's out-of-memory error before step 12, once."""
    wanted = os.environ.get("LORAC_FAULT", "")
    if not wanted.startswith("oom@"):
        return lambda step: None
    left = [int(wanted.removeprefix("oom@"))]

    def raise_once(step: int) -> None:
        if left and step == left[0]:
            import torch

            left.pop()
            raise torch.OutOfMemoryError("injected by LORAC_FAULT")

    return raise_once


if __name__ == "__main__":
    sys.exit(main())
