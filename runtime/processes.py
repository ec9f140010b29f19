"""What the processes of a run do together. A run of one process, and the trace, pass through all of this untouched.

Each process takes its share of a step's micro-batches; gradients and loss are summed over all of them in one buffer;
each then moves its own, equal copy of what is trained. Only the first one writes.
Small words (has memory run out, stop now?) go over gloo on the CPU, so that no card is waited for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Literal, TypeVar

import torch
from torch import Tensor, distributed, nn

from runtime import log
from runtime.errors import Lost, Problem
from runtime.world import world

T = TypeVar("T")

PATIENCE = timedelta(hours=2)
"""How long a process waits for another, which may be encoding the data or drawing samples. One that died is noticed at
once by its closed connection, or ended by the launcher."""


@contextmanager
def joined(device: Literal["cuda", "cpu"]) -> Iterator[None]:
    """Be one of the run's processes, on a card of its own. All but the first fall silent."""
    here = world()
    if here.size == 1:
        yield
        return
    if device == "cuda":
        torch.cuda.set_device(here.local_rank)
    log.CONSOLE.quiet = here.rank > 0
    with _all_alive():
        distributed.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo", timeout=PATIENCE)
    yield
    distributed.destroy_process_group()  # not after an error: NCCL would wait for those that are gone


def first() -> bool:
    """Whether this process is the one that writes."""
    return world().rank == 0


def share(items: Sequence[T]) -> Sequence[T]:
    """This process's part of what all have in the same order: dealt like cards, so that like ones are spread."""
    return items[world().rank :: world().size]


def is_mine(number: int) -> bool:
    """Whether item `number` is of this process's share."""
    return number % world().size == world().rank


def spare(count: int) -> int:
    """How many items this process has less than the first one, of `count` that are dealt like cards: 0 or 1."""
    return len(range(0, count, world().size)) - len(range(world().rank, count, world().size))


def add_up(values: Tensor) -> None:
    """Replace values by their sums over all processes, in place. The same bytes in each."""
    if world().size > 1:
        with _all_alive():
            distributed.all_reduce(values)


def flat_gradients(masters: Iterable[nn.Parameter], loss: Tensor) -> Tensor:
    """One float32 buffer of all gradients, and the loss at its end: what is summed over the processes.

    The gradients become views of it. A process whose share of a short step was empty adds zeros.
    """
    known = list(masters)
    flat = torch.cat(
        [
            *(
                torch.zeros(one.numel(), device=one.device) if one.grad is None else one.grad.reshape(-1)
                for one in known
            ),
            loss.reshape(1).float(),
        ]
    )
    parts = flat[:-1].split([one.numel() for one in known])
    for one, part in zip(known, parts, strict=True):
        one.grad = part.view_as(one)
    return flat


def any_of(holds: bool) -> bool:
    """Whether it holds in any process."""
    if world().size == 1:
        return holds
    said = torch.tensor(holds, dtype=torch.int32)
    with _all_alive():
        distributed.all_reduce(said, distributed.ReduceOp.MAX)
    return bool(said)


def is_alike(number: int) -> bool:
    """Whether all processes have the same number."""
    if world().size == 1:
        return True
    bounds = torch.tensor([number, -number])
    with _all_alive():
        distributed.all_reduce(bounds, distributed.ReduceOp.MAX)
    return bool(bounds[0] == -bounds[1])


def wait() -> None:
    """Go on when all are here."""
    any_of(False)


@contextmanager
def together(kind: type[Exception]) -> Iterator[None]:
    """Work that may fail so in one process: then it fails so in all, before any of them goes on."""
    failed: Exception | None = None
    try:
        yield
    except kind as error:
        failed = error
    if any_of(failed is not None):
        raise failed or kind("in another process of the run")


@contextmanager
def one_goes_ahead() -> Iterator[None]:
    """Work that fills a cache: one process of each machine does it first, the others find it done."""
    ahead = world().local_rank == 0
    if not ahead:
        wait()
    yield
    if ahead:
        wait()


@contextmanager
def _all_alive() -> Iterator[None]:
    """Gloo and NCCL raise RuntimeError (DistBackendError is one) when a peer is gone."""
    try:
        yield
    except RuntimeError as error:
        hint = "run the same command again: it goes on from the last checkpoint"
        raise Lost(Problem("", "another process of the run ended", hint)) from error
