"""Whose a storage is: the module that runs, the parameter it belongs to, the optimizer that keeps it.

Found through PyTorch's global hooks, so that a step needs no change to be traced:
- modules by the registration of their parts while `make()` runs, and by their first forward;
- the module of a backward operator by its autograd node: nodes are numbered as they are made, so the number
  tells which module's forward made it (no hook on a tensor, which could change what stays alive);
- gradients and optimizer state when the optimizer steps.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as hooks
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from lorac.estimate.record import Pass

FINISHED = -1
"""`torch._C._current_graph_task_id()` when no backward runs."""


class Owners:
    """Module paths and passes of what runs now, and the modules and optimizers seen so far."""

    def __init__(self) -> None:
        self.modules: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self.optimizers: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        self.in_optimizer = False
        self._stack: list[nn.Module] = []
        self._running: str | None = ""
        """The path of the stack's last; None where it was not looked up yet."""
        self._path: weakref.WeakKeyDictionary[nn.Module, str] = weakref.WeakKeyDictionary()
        self._node_module: dict[int, str] = {}

    def now(self, making: bool) -> tuple[str, Pass]:
        """The path of the module that runs, and the pass it runs in."""
        if self.in_optimizer:
            return "", "optimizer"
        if torch._C._current_graph_task_id() == FINISHED:
            path = self._top()
            self._node_module.setdefault(torch._C._autograd._get_sequence_nr() - 1, path)
            return path, "make" if making else "forward"
        if torch.is_grad_enabled():
            path = self._top()
            self._node_module[torch._C._autograd._get_sequence_nr() - 1] = path
            return path, "recompute"
        node = torch._C._current_autograd_node()
        number = -1 if node is None else node._sequence_nr()
        return self._node_module.get(number, ""), "backward"

    def parameters(self) -> Iterator[nn.Parameter]:
        for module in list(self.modules):
            for parameter in module._parameters.values():
                if parameter is not None:
                    yield parameter

    def buffers(self) -> Iterator[torch.Tensor]:
        for module in list(self.modules):
            for buffer in module._buffers.values():
                if buffer is not None:
                    yield buffer

    def named(self) -> Iterator[tuple[str, torch.Tensor]]:
        """(module path, tensor) of every parameter and buffer."""
        self._name_modules()
        for module in list(self.modules):
            for tensor in (*module._parameters.values(), *module._buffers.values()):
                if tensor is not None:
                    yield self._path[module], tensor

    def forget_nodes(self) -> None:
        """Between steps: the numbers go on growing, and an old node never runs again."""
        self._node_module.clear()

    @contextmanager
    def watching(self, recorder: Any) -> Iterator[None]:
        """Hooks on for the block; `recorder.before_optimizer/after_optimizer` are called with each
        optimizer."""

        def before(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            self.optimizers.add(optimizer)
            recorder.before_optimizer(optimizer)
            self.in_optimizer = True

        def after(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            self.in_optimizer = False
            recorder.after_optimizer(optimizer)

        with ExitStack() as stack:
            for handle in (
                hooks.register_module_parameter_registration_hook(self._registered),
                hooks.register_module_buffer_registration_hook(self._registered),
                hooks.register_module_module_registration_hook(self._registered),
                hooks.register_module_forward_pre_hook(self._enter),
                hooks.register_module_forward_hook(self._leave, always_call=True),
                register_optimizer_step_pre_hook(before),
                register_optimizer_step_post_hook(after),
            ):
                stack.callback(handle.remove)
            yield

    def _top(self) -> str:
        if self._running is None:
            module = self._stack[-1]
            if module not in self._path:
                self._name_modules()
            self._running = self._path[module]
        return self._running

    def _registered(self, module: nn.Module, name: str, part: Any) -> None:
        self.modules.add(module)

    def _enter(self, module: nn.Module, args: Any) -> None:
        if module not in self._path:
            self.modules.update(module.modules())
        self._stack.append(module)
        self._running = None

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        while self._stack and self._stack.pop() is not module:
            pass
        self._running = None if self._stack else ""

    def _name_modules(self) -> None:
        """Paths from the roots: modules that are nobody's child. One root needs no prefix."""
        modules: set[nn.Module] = set()
        waiting = list(self.modules)
        while waiting:
            module = waiting.pop()
            if module not in modules:
                modules.add(module)
                waiting += module.children()
        self.modules.update(modules)
        children = {child for module in modules for child in module.children()}
        roots = [module for module in modules if module not in children]
        roots.sort(key=lambda module: type(module).__name__)
        for root in roots:
            prefix = type(root).__name__.removeprefix("FSDP")  # the class that `fully_shard` makes of one
            for name, module in root.named_modules():
                self._path.setdefault(module, f"{prefix}.{name}" if name else prefix)
