"""Blocks that torch compiles for the train step, each by itself (Ansel et al. 2024, "PyTorch 2").

- Compiled is what learns from a full micro-batch. What is held out or sampled, and an epoch's last micro-batch, which
  may be smaller, go through the same modules eager: one shape is compiled, in the first step.
- What is computed hangs on nothing that was seen before: no shape and no number is made a variable (`dynamic`,
  `specialize_float`), and a block that is no single graph, or is compiled too often, ends the run.
- Each process compiles anew, in a folder of the run's own: g++ writes a library at its place, so that of a process
  that was killed half of one may lie there.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from runtime import plan
from runtime.errors import MachineError, Problem

FOLDER = "compiled"
"""Of a run, while it trains."""

LIMIT = 64
"""Graphs of one function, a bound of ours: a model has as many as it has kinds of blocks, and one for the first."""

BACKEND = "inductor"
"""What makes code of a graph."""

OFF = "TORCHDYNAMO_DISABLE"
"""The variable by which `runtime.families` has torch leave its compiler alone."""

PLACE = "TORCHINDUCTOR_CACHE_DIR"
"""The one by which torch is told where to compile."""


WITHOUT = "run the same command again; if it ends so once more, plan without: Fit(compile=False)"


def compile_blocks(blocks: Iterable[nn.Module], rows: int) -> None:
    """Have these blocks compute compiled where they learn from `rows` sequences. In place."""
    for block in blocks:
        block.forward = _either(block.forward, rows)


def _either(eager: Callable[..., Any], rows: int) -> Callable[..., Any]:
    compiled = cache(partial(torch.compile, eager, dynamic=False, fullgraph=True, backend=BACKEND))

    def forward(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        learns = torch.is_grad_enabled() and hidden.shape[0] == rows
        return (compiled() if learns else eager)(hidden, *args, **kwargs)

    return forward


@contextmanager
def compiling(of: plan.Plan, folder: Path) -> Iterator[None]:
    """Inside, torch compiles as `compile_blocks` says, with its files in the run's `folder`; nothing is done where the
    plan compiles none. A block that cannot be compiled is a MachineError."""
    if not of.program.compute.compiled:
        yield
        return
    files = folder / FOLDER
    shutil.rmtree(files, ignore_errors=True)
    try:
        with in_folder(files), undisturbed():
            yield
    finally:
        shutil.rmtree(files, ignore_errors=True)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Inside, Ctrl-C and SIGTERM reach this process and none that it starts: g++ would end at them, and so the run.

    Blocked signals are so in processes that are started, too; here they come by another thread.
    """
    over = threading.Event()
    thread = threading.Thread(target=over.wait, daemon=True)
    thread.start()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        over.set()
        thread.join()


@contextmanager
def in_folder(files: Path) -> Iterator[None]:
    """Inside, torch compiles, with its files there. A block that cannot be compiled is a MachineError."""
    from torch._dynamo import config
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException
    from torch._inductor import config as inductor
    from torch._inductor.exc import CppCompileError

    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it looks for CUDA
    before = {name: os.environ.get(name) for name in (OFF, PLACE)}
    os.environ.update({OFF: "0", PLACE: str(files.absolute())})
    alike = {"specialize_float": True, "recompile_limit": LIMIT, "fail_on_recompile_limit_hit": True}
    try:
        with config.patch(alike), inductor.patch(compile_threads=1):
            yield
    except (TorchDynamoException, FailOnRecompileLimitHit, CppCompileError) as error:
        said = " ".join(str(error).split())[:300]
        raise MachineError(Problem("fit.compile", f"a block cannot be compiled: {said}", WITHOUT)) from error
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
