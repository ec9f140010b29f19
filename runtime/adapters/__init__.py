"""The methods lorac trains: one file each, one line each in this closed registry."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Protocol, cast

from torch import Tensor, nn

from runtime import plan
from runtime.adapters.dropout import SampleDropout
from runtime.errors import PlanError, Problem

METHODS = {
    "lora": "runtime.adapters.lora",
}


class Method(Protocol):
    """One way to adapt a module: where its parameters sit and how they begin."""

    def attach(self, module: nn.Module, pattern: str, adapter: plan.Adapter) -> list[str]:
        """Adapt every module whose path matches `pattern` whole, in place; the paths that were adapted."""

    def parameters(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """The trained parameters by name, in a fixed order."""

    def initialise(self, module: nn.Module, component: str, adapter: plan.Adapter, seed: int) -> None:
        """Set the parameters' first values, from the seed and each one's name alone."""

    def dropouts(self, module: nn.Module) -> Sequence[SampleDropout]:
        """The modules that draw masks, for `runtime.adapters.dropout.aim`."""

    def factors(self, module: nn.Module) -> dict[str, tuple[Tensor, ...]]:
        """Each adapted path's (A, B), with DoRA (A, B, M), as they compute."""

    def weigh(self, module: nn.Module, weight: float) -> None:
        """Set how strongly the adapter acts: 1 as trained, 0 as the base."""


def method(name: str) -> Method:
    """The method of that name. Raises PlanError for a name that is not in the registry."""
    if name not in METHODS:
        raise PlanError(Problem("adapter.method", f"must be one of {', '.join(METHODS)}, got {name!r}"))
    return cast(Method, import_module(METHODS[name]))
