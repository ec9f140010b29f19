"""Modules that are trained whole beside the adapter: a language model's token embeddings, its head.

PEFT calls them `modules_to_save`. Where the base ties the two they are one weight, moved by both of its uses.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from runtime import plan
from runtime.families.protocol import Modules


class Whole:
    """One weight that is trained whole. The base's values wait in main memory, for what is asked of the base."""

    def __init__(self, weight: nn.Parameter) -> None:
        self.weight = weight
        self.base = weight.detach().to("cpu", copy=True)
        self._trained: Tensor | None = None  # while the base's values are in place

    def weigh(self, weight: float) -> None:
        """Put the base's values in place for 0, else the trained ones."""
        if bool(weight) == (self._trained is None):
            return
        with torch.no_grad():
            if self._trained is None:
                self._trained = self.weight.detach().to("cpu", copy=True)
                self.weight.copy_(self.base)
            else:
                self.weight.copy_(self._trained)
                self._trained = None


def put_on(modules: Modules, adapter: plan.Adapter) -> dict[str, Whole]:
    """`COMPONENT.PATH.weight` (or `.bias`) -> what the plan trains whole; a tied weight once, by its first name."""
    found: dict[str, Whole] = {}
    for name, weight in parameters(modules, adapter):
        if not any(one.weight is weight for one in found.values()):
            found[name] = Whole(weight)
    return found


def parameters(modules: Modules, adapter: plan.Adapter) -> Iterator[tuple[str, nn.Parameter]]:
    """Every name of every parameter that the plan trains whole, weight before bias."""
    for component, paths in adapter.modules_to_save.items():
        for path in paths:
            for part, weight in modules[component].get_submodule(path).named_parameters(recurse=False):
                yield f"{component}.{path}.{part}", weight
