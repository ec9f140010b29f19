"""`lorac doctor`, `calibrate`: what this machine is and does."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import attrs
import click

from lorac.commands.calling import command
from lorac.terminal import print_json, progress, say, width


@command(
    "doctor",
    click.option("--json", "as_json", is_flag=True, help="Print a JSON list of {check, found, mend}."),
)
def doctor(as_json: bool) -> int:
    """Look for what would stop a run on this machine.

    Driver, versions, memory, disk, permissions, and one step of a tiny model trained for real. Each failing line comes
    with its mend; the exit code is 5 then.
    """
    from lorac.doctor import examine
    from runtime.errors import MachineError

    found = []
    for one in examine(Path.cwd()):
        found.append(one)
        if not as_json:
            say(f"{'ok' if one.is_well else 'BAD':4} {one.check}: {one.found}")
            if one.mend:
                say(f"     mend: {one.mend}")
    if as_json:
        print_json([attrs.asdict(one) for one in found])
    return 0 if all(one.is_well for one in found) else MachineError.exit_code


@command(
    "calibrate",
    click.option(
        "--threads", type=click.IntRange(1), help="How many the CPU computes with (default: one a core)."
    ),
    click.option("--json", "as_json", is_flag=True, help="Print a JSON list."),
)
def calibrate_(threads: int | None, as_json: bool) -> None:
    """Measure this machine, so that plans for it say how long they take.

    Times operators on the CPU, and on the GPU where there is one, for some 30 seconds each; best when nothing else
    runs; compiling for the CPU takes as long again. Plans for this CPU, or for the card "auto", use the figures from
    then on.
    """
    import os

    import torch

    from lorac.calibrate import calibrate, keep, show

    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    found = []
    with progress() as tell:
        for device in devices:
            own = calibrate(device, threads or os.cpu_count() or 1, partial(tell, device))
            found.append((own, keep(own)))
    if as_json:
        print_json([{"path": str(path), **attrs.asdict(own)} for own, path in found])
        return
    say("\n\n".join(show(own, path, width()) for own, path in found))
