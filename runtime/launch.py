"""A plan for several processes, all on this machine, started as torchrun would, and ended with one exit code.

`torchrun … -m runtime plan.json` and `accelerate launch … -m runtime plan.json` do as well, over several machines too;
those end in exit code 1 whatever was wrong, as they say no other.
"""

from __future__ import annotations

import logging
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from runtime.ending import INTERRUPTED
from runtime.errors import MachineError, Problem, Told

STOPPING = 600
"""Seconds that processes get, when the run is to stop, to end their step and save."""


def launch(processes: int, plan: Path, options: Sequence[str]) -> None:
    """Carry out a plan in so many processes. Raises Told with the exit code of the one that failed first, MachineError
    for one that was killed."""
    logging.getLogger("torch.distributed.elastic").setLevel(
        logging.CRITICAL
    )  # the processes say what is wrong
    with tempfile.TemporaryDirectory(prefix="lorac-") as logs:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id="lorac",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=logs),
            shutdown_timeout=STOPPING,
        )
        try:
            elastic_launch(config, sys.executable)("-P", "-m", "runtime", str(plan), *options)
        except ChildFailedError as error:
            raise _ending(error, processes) from None
        except SignalException:
            raise Told(INTERRUPTED) from None


def _ending(failed: ChildFailedError, processes: int) -> Told | MachineError:
    """How the run ends: a process that was killed is the cause of whatever the others say.

    SIGTERM is what the launcher itself ends the others with.
    """
    codes = {rank: failure.exitcode for rank, failure in sorted(failed.failures.items())}
    killed = {rank: code for rank, code in codes.items() if code < 0 and code != -signal.SIGTERM}
    if not killed:
        return Told(next((code for code in codes.values() if code > 0), MachineError.exit_code))
    rank, code = next(iter(killed.items()))
    what = f"process {rank} of {processes} was ended by {signal.Signals(-code).name}"
    hint = "run the same command again: it goes on from the last checkpoint"
    return MachineError(Problem("", what, hint))
