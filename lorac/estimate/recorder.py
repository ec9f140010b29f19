"""The dispatch mode that sees every operator, and writes down what it allocates and what it frees.

- An allocation is an output whose storage was not known before; a view or an in-place result is no
  allocation.
- A free is the end of the storage itself (a weak reference to it calls back), so reference counts, saved
  tensors and Python's own references all count, in the order in which they really let go.
- The same mode runs over fake and over real tensors: a traced and a measured step go through one code path.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Protocol

import attrs
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from lorac.estimate.fakes import Fakes, Name
from lorac.estimate.owners import Owners
from lorac.estimate.record import Block, Call, Kind, Pass, Trace

aten = torch.ops.aten
DEVICE = torch.ops.prim.device.default

ATTENTION = aten._scaled_dot_product_flash_attention_for_cpu
ATTENTION_BACKWARD = aten._scaled_dot_product_flash_attention_for_cpu_backward
SAME_ARITHMETIC = {
    ATTENTION: aten._scaled_dot_product_flash_attention,
    ATTENTION_BACKWARD: aten._scaled_dot_product_flash_attention_backward,
}
"""Operators that torch counts no FLOPs for, and those with the same arguments and products that it does."""


class Kernels(Protocol):
    """What operators take beside their results, where the device's kernels do."""

    def scratch(self, func: Any, args: tuple[Any, ...], out: Any) -> tuple[int, ...]: ...

    def lasting(self, func: Any, in_backward: bool) -> int: ...


@attrs.frozen
class Passage:
    """What was written down from some point on; `events` count blocks from there."""

    blocks: list[Block]
    events: list[int]
    calls: list[Call]


class Recorder(TorchDispatchMode):
    """Blocks, events and calls of everything run inside. `kernels` knows the bytes that a GPU's operators
    take for themselves; `fakes` runs operators on fake tensors, None where they are real."""

    def __init__(self, owners: Owners, *, fakes: Fakes | None = None, kernels: Kernels | None = None) -> None:
        super().__init__()
        self.owners = owners
        self.blocks: list[Block] = []
        self.events: list[int] = []
        self.marks: list[tuple[int, str]] = [(0, "make")]
        self.calls: list[Call] = []
        self.steps = 0
        self._fakes = fakes
        self._kernels = kernels
        self._known: dict[int, tuple[weakref.ref[Any], int]] = {}
        self._died: dict[int, Pass] = {}
        self._labelled: set[int] = set()
        self._passages: dict[Any, Passage] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: nothing is compiled here, and the guard against it would be gone through by every operator."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is DEVICE:  # a fake tensor's `.device`, asked many times an operator
            return args[0].device
        for kind in types:
            if kind is not FakeTensor and hasattr(kind, "__tensor_flatten__"):
                return func(*args, **kwargs)  # a DTensor has no memory of its own, and its part was seen
        if self._fakes is None:
            out, given, known = func(*args, **kwargs), [*_tensors(args), *_tensors(kwargs.values())], None
        else:
            out, given, known = self._fakes.call(func, args, kwargs)
        if func.namespace == "fsdp":  # the weights of a block, from the processes' parts
            for tensor in given:
                self._mark(tensor, "base weights")
        made: list[Tensor] = [out] if type(out) is FakeTensor else list(_tensors(out))
        if not made:
            if self._kernels is None and func.__name__.startswith("_foreach_"):
                self._loop(func, args)
            return out
        for tensor in given:
            if tensor.untyped_storage()._cdata not in self._known:
                self._add(tensor, "inputs", "", "given", "make")
        module, during = self.owners.now(making=self.steps == 0 and self.marks[-1][1] == "make")
        name = func._overloadpacket.__name__
        moved = self._note(made, given, module, during, name)
        if moved:
            flops = _flops(func._overloadpacket, args, kwargs, out, known)
            self._call(func, args, made[0], out, module, during, flops, moved)
        return out

    def _loop(self, func: Any, args: tuple[Any, ...]) -> None:
        """An operator in place on lists of tensors: a CPU runs it as a loop over them."""
        module, during = self.owners.now(making=False)
        lists = [part for part in args if isinstance(part, list) and part and isinstance(part[0], Tensor)]
        for tensors in zip(*lists, strict=True):
            moved = sum(tensor.numel() * tensor.itemsize for tensor in tensors)
            dtype = str(tensors[0].dtype).removeprefix("torch.")
            self.calls.append(Call(func._overloadpacket.__name__, module, during, dtype, 0, moved))

    def repeat(self, name: Hashable, run: Callable[[], None]) -> None:
        """Run it, or write down what it did before under that name, in the same phase.

        That is for what only changes tensors in place. What has left a block behind, or let go of one, is run again.
        """
        key = name, self.marks[-1][1]
        before, since, called = len(self.blocks), len(self.events), len(self.calls)
        if key in self._passages:
            passage = self._passages[key]
            self.blocks += passage.blocks
            self.events += [event + before if event > 0 else event - before for event in passage.events]
            self.calls += passage.calls
            return
        run()
        events = [event - before if event > 0 else event + before for event in self.events[since:]]
        if sorted(events) == [*range(before - len(self.blocks), 0), *range(1, len(self.blocks) - before + 1)]:
            self._passages[key] = Passage(self.blocks[before:], events, self.calls[called:])

    def begin(self, phase: str) -> str:
        """Start `phase`; gives the one that ran before."""
        before = self.marks[-1][1]
        if before != phase:
            self.marks.append((len(self.events), phase))
        return before

    def next_step(self) -> None:
        self.steps += 1
        self.calls.clear()
        self.owners.forget_nodes()

    def label(self, kind: Kind, tensors: Any) -> None:
        for tensor in _tensors(tensors):
            for part in _parts(tensor):
                block = self._block(part)
                self._labelled.add(block)
                self.blocks[block].kind = kind

    def resized(self, storage: torch.UntypedStorage) -> None:
        """A storage is about to have another size: FSDP frees gathered weights so, and takes their memory again.

        Whatever uses it next finds a new block.
        """
        known = self._known.pop(storage._cdata, None)
        if known is not None:
            self.events.append(-known[1] - 1)

    def move_to_host(self, tensors: Any) -> None:
        """Count these tensors' blocks as the host's from the beginning."""
        for tensor in _tensors(tensors):
            self.blocks[self._block(tensor)].place = "host"

    def before_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """The optimizer is about to step: its parameters' gradients are there."""
        for group in optimizer.param_groups:
            self._mark_gradients(group["params"])

    def after_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Its state is there. A scalar `step` is kept on the host unless `capturable`
        (torch/optim/adamw.py)."""
        for state in optimizer.state.values():
            for name, value in state.items():
                for tensor in _tensors(value):
                    self._mark(tensor, "optimizer state")
                    if name == "step" and tensor.dim() == 0 and self._kernels is not None:
                        self.blocks[self._block(tensor)].place = "host"

    def made(self) -> None:
        """`make()` has returned: parameters, buffers and masters are known now."""
        for path, tensor in self.owners.named():
            frozen = not (isinstance(tensor, torch.nn.Parameter) and tensor.requires_grad)
            for part in _parts(tensor):
                self._mark(part, "base weights" if frozen else "adapter")
                self.blocks[self._block(part)].module = path

    def finish(self) -> Trace:
        """Close the books: what is still to be named is named by when it lived."""
        self.made()
        self._mark_gradients(self.owners.parameters())
        parameters = {parameter.untyped_storage()._cdata for parameter in self.owners.parameters()}
        for optimizer in self.owners.optimizers:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if parameter.untyped_storage()._cdata not in parameters:
                        self._mark(parameter, "master weights")
        for index, block in enumerate(self.blocks):
            died = self._died.get(index)
            crosses = block.born in ("forward", "recompute") and died == "backward"
            if block.kind == "temporaries" and crosses:
                block.kind = "saved activations"
        known, self._known = self._known, {}
        del known
        return Trace(tuple(self.blocks), tuple(self.events), tuple(self.marks), tuple(self.calls), self.steps)

    def _note(self, made: list[Tensor], given: list[Tensor], module: str, during: Pass, name: str) -> int:
        """Write down new blocks; gives the bytes that the call moved (0 for a view)."""
        kind: Kind = "temporaries" if given or during not in ("make", "forward") else "inputs"
        fresh = [tensor for tensor in made if tensor.untyped_storage()._cdata not in self._known]
        for tensor in fresh:
            if tensor.untyped_storage()._cdata not in self._known:
                self._add(tensor, kind, module, name, during)
        if not fresh and not name.endswith("_") and name not in ("copy_", "set_"):
            return 0
        return sum([tensor.numel() * tensor.itemsize for tensor in (*fresh, *given)])

    def _add(self, tensor: Tensor, kind: Kind, module: str, operator: str, during: Pass) -> None:
        storage = tensor.untyped_storage()
        device = tensor.fake_device if isinstance(tensor, FakeTensor) else tensor.device
        index = self._open(storage.nbytes() if device.type != "meta" else 0, kind, module, operator, during)
        key = storage._cdata
        self._known[key] = (weakref.ref(storage, lambda _: self._freed(key, index)), index)

    def _open(self, size: int, kind: Kind, module: str, operator: str, during: Pass) -> int:
        self.blocks.append(Block(size, kind, module, operator, self.marks[-1][1], during))
        self.events.append(len(self.blocks))
        return len(self.blocks) - 1

    def _freed(self, key: int, index: int) -> None:
        if self._known.pop(key, None) is not None:
            self.events.append(-index - 1)
            in_backward = torch._C._current_graph_task_id() != -1 and not torch.is_grad_enabled()
            self._died[index] = "backward" if in_backward else "forward"

    def _block(self, tensor: Tensor) -> int:
        key = tensor.untyped_storage()._cdata
        if key not in self._known:
            self._add(tensor, "inputs", "", "given", "make")
        return self._known[key][1]

    def _mark(self, tensor: Tensor, kind: Kind) -> None:
        index = self._block(tensor)
        if index not in self._labelled:
            self.blocks[index].kind = kind

    def _mark_gradients(self, parameters: Any) -> None:
        for parameter in parameters:
            if parameter.grad is not None:
                self._mark(parameter.grad, "gradients")

    def _call(
        self,
        func: Any,
        args: tuple[Any, ...],
        first: Tensor,
        out: Any,
        module: str,
        during: Pass,
        flops: int,
        moved: int,
    ) -> None:
        packet = func._overloadpacket
        dtype = str(first.dtype).removeprefix("torch.")
        rows, cells = _inner(packet, args, out) if flops and self._kernels is None else (0, 0)
        self.calls.append(Call(packet.__name__, module, during, dtype, flops, moved, rows, cells))
        if self._kernels is None:
            return
        taken = [
            self._open(size, "temporaries", module, packet.__name__, during)
            for size in self._kernels.scratch(func, args, out)
        ]
        self.events.extend(-index - 1 for index in reversed(taken))
        kept = self._kernels.lasting(func, during in ("backward", "recompute"))
        if kept:
            self._open(kept, "temporaries", "cuBLAS", packet.__name__, during)


COUNTED: dict[Name, int] = {}
"""FLOPs by the call's name: torch's formulas take longer than all else that is noted of it."""


def _flops(packet: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any, name: Name) -> int:
    """Floating-point operations of a call, by torch's formulas; 0 of an operator that it has none for."""
    formula = flop_registry.get(SAME_ARITHMETIC.get(packet, packet))
    if formula is None:
        return 0
    if name is None:
        return int(formula(*args, **kwargs, out_val=out))
    count = COUNTED.get(name)
    if count is None:
        count = COUNTED[name] = int(formula(*args, **kwargs, out_val=out))
    return count


def _inner(packet: Any, args: tuple[Any, ...], out: Any) -> tuple[int, int]:
    """The rows and cells that a CPU's operator makes for itself (`Call`)."""
    if packet in SAME_ARITHMETIC:
        query, key = args[1:3] if packet is ATTENTION_BACKWARD else args[:2]
        rows = math.prod(query.shape[:3])
        return rows, rows * key.shape[2]
    if packet in (aten.convolution, aten.convolution_backward):
        result, weight = (out, args[1]) if packet is aten.convolution else (args[0], args[2])
        pixels = result.shape[0] * math.prod(result.shape[2:])
        return pixels, pixels * math.prod(weight.shape[1:])
    return 0, 0


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in an operator's arguments or results: alone, or in (nested) sequences."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)) or type(value).__name__ == "dict_values":
        for item in value:
            yield from _tensors(item)


def _parts(tensor: Tensor) -> Iterator[Tensor]:
    """A parameter's storages: its own, a bitsandbytes quantisation state's, a tensor subclass's inner
    ones."""
    if hasattr(tensor, "__tensor_flatten__"):
        names, _ = tensor.__tensor_flatten__()
        inner = (getattr(tensor, name) for name in names)
        for part in inner:
            if isinstance(part, Tensor):  # a DTensor has its mesh there too
                yield from _parts(part)
        return
    yield tensor
    state = getattr(tensor, "quant_state", None)
    while state is not None:
        yield from (part for part in (state.absmax, state.code, state.offset) if isinstance(part, Tensor))
        state = state.state2
