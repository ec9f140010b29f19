"""The same bytes each time: what torch is asked for, and what is said where a card has no exact form of an operator."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from runtime import plan
from runtime.errors import MachineError, Problem

REFUSED = "does not have a deterministic implementation"
"""How torch says so (`Context::alertNotDeterministic`)."""


def deterministic(compute: plan.Compute) -> None:
    """Ask torch for the same bytes each time (cuBLAS needs its workspace named before CUDA starts).

    Unless the plan is strict, torch only warns of an operator that has no exact form, and its memory-efficient
    attention keeps a backward pass that adds up in any order.
    """
    if compute.device == "cpu":
        torch.set_num_threads(compute.threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=not compute.deterministic)
    torch.backends.cudnn.benchmark = False


@contextmanager
def refusals() -> Iterator[None]:
    """Inside, an operator that a strict plan does not allow is a MachineError."""
    try:
        yield
    except RuntimeError as error:
        if REFUSED not in str(error):
            raise
        operator = str(error).partition(REFUSED)[0].strip()
        hint = "plan with Fit(deterministic=False): the last bits of a run may then differ"
        raise MachineError(
            Problem("fit.deterministic", f"{operator} has no exact form here", hint)
        ) from error
