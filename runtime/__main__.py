"""`python -m runtime PLAN.json`: carry out a plan. Works without lorac, so any launcher can start it."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from runtime import log, plan, preflight
from runtime.ending import ended
from runtime.errors import DivergedError, Interrupted, Lost, PlanError, Problem, Told
from runtime.preflight import Where, parts_of
from runtime.safeio import paths
from runtime.world import is_launched, world


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run, and turn every end into its exit code (see `runtime.errors`)."""
    options = parser().parse_args(arguments)
    return ended(lambda: carry_out(options), lambda: options.debug)


def carry_out(options: argparse.Namespace) -> None:
    """Run the plan at its places; start its processes first, where it has several and no launcher did."""
    of = plan.read(options.plan)
    where = places(of, options)
    if of.program.train.processes > 1 and not is_launched():
        from runtime.launch import launch

        launch(of.program.train.processes, options.plan, given(options))
        return
    if world().local_rank == 0:
        log.begins(f"Plan {of.plan_hash[:12]}: checking the base, the data and this machine")
        preflight.check(of, where, options.accept_versions)
    from runtime.run import Options, run  # torch and the families are needed from here on

    try:
        run(of, Options(where=where, fault=fault()))
    except TOLD_ONCE as error:
        raise Told(error.exit_code) if world().rank else error from None


TOLD_ONCE = (Interrupted, DivergedError, Lost)
"""What ends all of a run's processes alike: the first one says so."""


def given(options: argparse.Namespace) -> list[str]:
    """The options as they came, for another process."""
    words = [
        f"--{name}={value}"
        for name in ("base", "data", "output", "log")
        if (value := getattr(options, name)) is not None
    ]
    return words + ["--accept-versions"] * options.accept_versions + ["--debug"] * options.debug


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
        cache=paths.cache_folder(),
        parts=parts_of(named),
    )


def fault() -> Callable[[int], None]:
    """A fault to inject, for tests: LORAC_FAULT=oom@12 raises torch's out-of-memory error before step 12, once.

    kill@12 ends the process by SIGKILL instead; oom@12/1 and kill@12/1 are for process 1 alone. A run that the
    launcher started again is left in peace.
    """
    wanted = re.fullmatch(r"(oom|kill)@(\d+)(?:/(\d+))?", os.environ.get("LORAC_FAULT", ""))
    is_again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    if wanted is None or is_again or (wanted[3] and int(wanted[3]) != world().rank):
        return lambda step: None
    left = [int(wanted[2])]

    def once(step: int) -> None:
        if left and step == left[0]:
            import torch

            left.pop()
            if wanted[1] == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise torch.OutOfMemoryError("injected by LORAC_FAULT")

    return once


def leave(code: int) -> None:
    """End this process. One of several ends at once, all of its files being closed: gloo's threads outlive their group,
    and may end the whole process by SIGABRT while Python takes itself apart, its work done (seen once, in CI)."""
    if is_launched():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    leave(main())
