"""One of several processes for the tracer, alone: it gathers from the others tensors of the right shapes.

By torch's fake process group, whose collectives do nothing. The first process is taken: of rows that cannot be dealt
evenly it has the larger part.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import distributed
from torch.testing._internal.distributed.fake_pg import FakeStore

from runtime import sharding


@contextmanager
def first_of(processes: int) -> Iterator[None]:
    """Be the first of so many processes, on fake CPU tensors."""
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=processes)
    try:
        assert distributed.group.WORLD is not None
        sharding.mesh_of(distributed.group.WORLD, "cpu")
        yield
    finally:
        distributed.destroy_process_group()
