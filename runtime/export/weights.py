"""The trained adapter as the exporters take it: component -> module path -> (A, B), with DoRA (A, B, M), by diffusers'
and transformers' own paths. What is trained whole beside it (`plan.Adapter.modules_to_save`) is (weight,), or
(weight, bias).

A has shape (rank, in) and B (out, rank); for a convolution (rank, in, k, k) and (out, rank, 1, 1). Float32.
The change of a module's weight is `strength` · B @ A. M are DoRA's magnitudes, (out,).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from runtime import plan

Weights = Mapping[str, Mapping[str, tuple[Tensor, ...]]]


def strength(adapter: plan.Adapter) -> float:
    """What B @ A is multiplied by. Most readers know alpha / rank alone: exporters put the rest of it into B."""
    return adapter.alpha / (math.sqrt(adapter.rank) if adapter.rslora else adapter.rank)


def low_rank(weights: Weights, adapter: plan.Adapter) -> Weights:
    """The weights without what is trained whole."""
    return {
        component: {
            m: parts for m, parts in modules.items() if m not in adapter.modules_to_save.get(component, ())
        }
        for component, modules in weights.items()
    }


def check(weights: Weights, adapter: plan.Adapter) -> None:
    """Raise ValueError, naming every fault, for weights that are not what the plan's adapter trains."""
    faults = []
    if not adapter.alpha > 0:
        faults.append(f"alpha is {adapter.alpha}, and readers take 0 as alpha = rank")
    if set(weights) != set(adapter.modules):
        faults.append(f"components are {sorted(weights)}, planned are {sorted(adapter.modules)}")
    for component, paths in adapter.modules_to_save.items():
        lost = [path for path in paths if path not in weights.get(component, {})]
        faults += [f"{component}.{path} is trained whole, and is not here" for path in lost]
    for component, modules in low_rank(weights, adapter).items():
        if len(modules) != adapter.modules.get(component, len(modules)):
            faults.append(f"{component} has {len(modules)} modules, planned are {adapter.modules[component]}")
        for module, (a, b, *magnitudes) in modules.items():
            if [tuple(m.shape) for m in magnitudes] != [(b.shape[0],)] * adapter.dora:
                faults.append(f"{component}.{module} has magnitudes that are not as DoRA's")
            if a.shape[0] != adapter.rank or b.ndim != a.ndim or b.shape[1] != adapter.rank:
                shapes = f"A {tuple(a.shape)} and B {tuple(b.shape)}"
                faults.append(f"{component}.{module} has {shapes}, not of rank {adapter.rank}")
    if faults:
        raise ValueError("; ".join(faults))
