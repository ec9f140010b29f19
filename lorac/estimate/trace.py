"""Run any step on fake tensors and keep the record. See the package's docstring for how to use it.

- Fake tensors are CPU tensors without data (`FakeTensorMode`): on a machine with no GPU a fake CUDA tensor
  cannot go backward, so what CUDA does otherwise is modelled: which kernels it picks and what they save
  (`kernels.py`), `foreach` optimizers, its allocator (`allocator.py`), workspaces and context (`cuda.py`).
- The step runs several times: the optimizer's state comes after the first.
- The garbage collector is off inside a step and runs between steps: what a reference cycle holds is counted
  as long as Python may hold it, and each trace of the same step is the same.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Literal
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.optim import optimizer
from torch.utils import _foreach_utils

from lorac.estimate.fakes import Fakes
from lorac.estimate.kernels import CudaKernels
from lorac.estimate.owners import Owners
from lorac.estimate.record import Kind, Trace
from lorac.estimate.recorder import Recorder
from runtime.optimizers.adamw8bit import AdamW8bit

Step = Callable[[], Any]

_active: ContextVar[Recorder | None] = ContextVar("recorder", default=None)


def trace(
    make: Callable[[], Step],
    *,
    steps: int = 3,
    device: Literal["cuda", "cpu"] = "cuda",
    capability: tuple[int, int] = (8, 0),
    workspace: str = "",
) -> Trace:
    """Record `make()` and `steps` runs of the step it returns, on fake tensors.

    `device` says whose operators to follow: "cuda" for what a card of compute `capability` allocates, "cpu"
    for what `measure` would see here. `workspace` is what CUBLAS_WORKSPACE_CONFIG says, "" where it is not
    set. Nothing is computed; questions for a value are answered by `answers`.
    """
    with ExitStack() as stack:
        kernels = CudaKernels(capability, workspace) if device == "cuda" else None
        fakes = stack.enter_context(Fakes())
        stack.enter_context(_foreach_takes_fakes())
        stack.enter_context(_transformers_is_not_compiling())
        recorder = Recorder(Owners(), fakes=fakes, kernels=kernels)
        stack.enter_context(_alike_parameters_move_once(recorder))
        if kernels is not None:
            stack.enter_context(kernels.active())
        return _record(recorder, make, steps)


def measure(make: Callable[[], Step], *, steps: int = 3) -> Trace:
    """Record the same on real CPU tensors: everything is computed, and the memory is really taken."""
    return _record(Recorder(Owners()), make, steps)


def materialize(*modules: nn.Module) -> None:
    """Give modules built on the meta device tensors of the tracer (or, under `measure`, real empty ones).

    In place; shared parameters stay shared. dtype, shape and `requires_grad` stay; values are not set.
    """
    made: dict[int, Tensor] = {}
    for module in {part: None for root in modules for part in root.modules()}:
        tables: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for table in tables:
            for name, tensor in table.items():
                if tensor is None or tensor.device.type != "meta":
                    continue
                if id(tensor) not in made:
                    empty = torch.empty_strided(
                        tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu"
                    )
                    made[id(tensor)] = (
                        nn.Parameter(empty, requires_grad=tensor.requires_grad)
                        if isinstance(tensor, nn.Parameter)
                        else empty
                    )
                table[name] = made[id(tensor)]


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Name what runs inside: "loading", "caching", "sampling", "saving". Peaks are kept by phase."""
    recorder = _active.get()
    if recorder is None:
        yield
        return
    before = recorder.begin(name)
    try:
        yield
    finally:
        recorder.begin(before)


def label(kind: Kind, tensors: Tensor | Iterable[Tensor]) -> None:
    """Say what these tensors are, where the tracer cannot know (fp32 masters kept beside bf16 weights)."""
    recorder = _active.get()
    if recorder is not None:
        recorder.label(kind, tensors if isinstance(tensors, Tensor) else list(tensors))


def on_host(tensors: Tensor | Iterable[Tensor]) -> None:
    """Count these tensors as the host's memory, not the card's: a cache, an offloaded block."""
    recorder = _active.get()
    if recorder is not None:
        recorder.move_to_host(tensors if isinstance(tensors, Tensor) else list(tensors))


@contextmanager
def _resizes_seen_by(recorder: Recorder) -> Iterator[None]:
    """A storage that changes its size calls no operator."""
    resize = torch.UntypedStorage.resize_

    def told(storage: torch.UntypedStorage, size: int) -> Any:
        recorder.resized(storage)
        return resize(storage, size)

    with mock.patch.object(torch.UntypedStorage, "resize_", told):
        yield


@contextmanager
def _foreach_takes_fakes() -> Iterator[None]:
    """`foreach` paths are taken for exact types only; a fake tensor stands for one."""
    for kinds in (optimizer._foreach_supported_types, _foreach_utils._foreach_supported_types):
        kinds.append(FakeTensor)
    try:
        yield
    finally:
        for kinds in (optimizer._foreach_supported_types, _foreach_utils._foreach_supported_types):
            kinds.remove(FakeTensor)


@contextmanager
def _transformers_is_not_compiling() -> Iterator[None]:
    """transformers takes a fake tensor for a graph that is compiled, and then makes masks that a run goes without
    (`is_tracing`, transformers/utils/import_utils.py)."""
    utils = sys.modules.get("transformers.utils.import_utils")
    with mock.patch.object(utils, "is_fake_tensor", lambda tensor: False) if utils else nullcontext():
        yield


@contextmanager
def _alike_parameters_move_once(recorder: Recorder) -> Iterator[None]:
    """`AdamW8bit` moves one parameter after the other, and would take two thirds of a trace: of those of one shape,
    whose states are of one kind, the first is traced."""
    move = AdamW8bit._move_packed

    def repeated(optimizer: AdamW8bit, group: dict[str, Any], parameter: nn.Parameter) -> None:
        state = optimizer._state(parameter)  # made now, if it is not yet: it stays
        tensors = (parameter, parameter.grad, *state.values())
        shapes = tuple((one.shape, one.stride(), one.dtype) for one in tensors if one is not None)
        recorder.repeat((id(optimizer), id(group), shapes), lambda: move(optimizer, group, parameter))

    with mock.patch.object(AdamW8bit, "_move_packed", repeated):
        yield


def _record(recorder: Recorder, make: Callable[[], Step], steps: int) -> Trace:
    token = _active.set(recorder)
    collecting = gc.isenabled()
    gc.disable()
    gc.freeze()
    try:
        with recorder.owners.watching(recorder), _resizes_seen_by(recorder), recorder:
            step = make()
            recorder.made()
            recorder.begin("step")
            for _ in range(steps):
                recorder.next_step()
                step()
                gc.collect()
            return recorder.finish()
    finally:
        gc.unfreeze()
        if collecting:
            gc.enable()
        _active.reset(token)
