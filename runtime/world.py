"""Which of a run's processes this is, as torchrun and `accelerate launch` say it in the environment. No torch needed.

Source: PyTorch, "torchrun (Elastic Launch)", Environment Variables.
"""

from __future__ import annotations

import os

import attrs


@attrs.frozen(kw_only=True)
class World:
    """This process's number among all of the run's and among those of this machine, and how many there are of each."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1


def world() -> World:
    """What the launcher says; a process that none started is alone."""
    said = os.environ
    return World(
        rank=int(said.get("RANK", 0)),
        size=int(said.get("WORLD_SIZE", 1)),
        local_rank=int(said.get("LOCAL_RANK", 0)),
        local_size=int(said.get("LOCAL_WORLD_SIZE", 1)),
    )


def is_launched() -> bool:
    """Whether a launcher started this process."""
    return "WORLD_SIZE" in os.environ
