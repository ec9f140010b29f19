"""The methods lorac trains: one file each, one line each in this closed registry.

A method makes layers (`runtime.adapters.adapted`) whose trained parts have short names of its own, and says how files
name them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Protocol, cast

from torch import nn

from runtime import plan
from runtime.adapters.adapted import Adapted, Parts
from runtime.errors import PlanError, Problem

METHODS = {
    "lora": "runtime.adapters.lora",
    "loha": "runtime.adapters.loha",
    "lokr": "runtime.adapters.lokr",
    "vera": "runtime.adapters.vera",
    "ia3": "runtime.adapters.ia3",
}


class Method(Protocol):
    """One way to adapt layers: what is trained of them, and how that is kept in files."""

    TITLE: str
    """What people call it."""
    TAKES: tuple[type[nn.Module], ...]
    """The kinds of layers that it adapts."""
    WEBUI: Mapping[str, str]
    """Part -> how its key ends in kohya's and LyCORIS' files."""
    PEFT: Mapping[str, str]
    """Part -> how its key ends in PEFT's files."""
    EXACT: frozenset[str]
    """Parts that files hold in float32: what they learn is small against what they are."""
    SCALED: str
    """The part that a factor goes into where a reader's strength is not the trained one; empty: there is none."""

    def layers(self, bases: Mapping[str, nn.Module], adapter: plan.Adapter) -> dict[str, Adapted]:
        """An adapted layer for each frozen one, by path; the parts have no values yet."""

    def files(self, adapter: plan.Adapter) -> tuple[str, ...]:
        """The kinds of files that some reader takes it from: of "webui", "diffusers" and "peft"."""

    def strength(self, parts: Parts, module: str, adapter: plan.Adapter) -> float:
        """What the product of the parts was multiplied by in training."""

    def read_strength(self, parts: Parts, alpha: float) -> float:
        """What readers that go by the parts and alpha multiply it by."""

    def fault(self, parts: Parts, module: str, adapter: plan.Adapter) -> str:
        """What of the parts is not as the plan's adapter has them; empty where nothing is."""

    def network(self, adapter: plan.Adapter) -> tuple[str, int, dict[str, Any]]:
        """`ss_network_module`, `ss_network_dim`, `ss_network_args`: what kohya's trainer would have trained it with."""

    def in_peft(self, adapter: plan.Adapter) -> plan.Adapter:
        """The adapter as PEFT's file holds it, to be filled from there."""

    def for_peft(self, parts: Parts, module: str, adapter: plan.Adapter) -> Parts:
        """The parts' values as PEFT's file holds them, float32."""

    def peft_config(self, modules: list[str], adapter: plan.Adapter) -> dict[str, Any]:
        """What adapter_config.json says beside what it says of every method."""


def method(name: str) -> Method:
    """The method of that name. Raises PlanError for a name that is not in the registry."""
    if name not in METHODS:
        raise PlanError(Problem("adapter.method", f"must be one of {', '.join(METHODS)}, got {name!r}"))
    return cast(Method, import_module(METHODS[name]))


def adaptable(module: nn.Module, pattern: str, of: Method) -> dict[str, nn.Module]:
    """The layers inside that the method takes and whose path `pattern` matches whole, in the module's order."""
    return {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, of.TAKES) and getattr(layer, "groups", 1) == 1 and re.fullmatch(pattern, name)
    }


def attach(module: nn.Module, pattern: str, adapter: plan.Adapter) -> list[str]:
    """Freeze the module and adapt in place what `pattern` matches; the adapted paths. Works on meta tensors."""
    module.requires_grad_(False)
    of = method(adapter.method)
    made = of.layers(adaptable(module, pattern, of), adapter)
    for path, layer in made.items():
        module.set_submodule(path, layer)
    return list(made)
