"""The trained adapter as the exporters take it: component -> module path -> part -> its value, by diffusers' and
transformers' own paths, and by the method's names of its parts. What is trained whole beside it
(`plan.Adapter.modules_to_save`) has the parts weight, and bias where it has one; a token embedding with new words
(`plan.Adapter.words`) has the rows of each (vectors, width), by its token.

Float32. Of LoRA: A (rank, in) and B (out, rank); for a convolution (rank, in, k, k) and (out, rank, 1, 1); with DoRA
its magnitudes M. Other methods' shapes are told where their layers are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from runtime import plan
from runtime.adapters import method
from runtime.adapters.adapted import Parts
from runtime.dtypes import DTYPES

Weights = Mapping[str, Mapping[str, Parts]]


def named(
    parts: Parts, adapter: plan.Adapter, names: Mapping[str, str], dtype: plan.Dtype, ratio: float = 1.0
) -> Iterator[tuple[str, Tensor]]:
    """(how its key ends, tensor) of every part, in the file's dtype. The strength is made `ratio` times as large."""
    of = method(adapter.method)
    for part, value in parts.items():
        scaled = value.detach().cpu().float() * ratio if part == of.SCALED else value.detach().cpu()
        yield names[part], scaled.float() if part in of.EXACT else scaled.to(DTYPES[dtype])


def low_rank(weights: Weights, adapter: plan.Adapter) -> Weights:
    """The weights without what is trained whole, and without new words."""

    def is_beside(component: str, module: str) -> bool:
        whole, embedding = adapter.modules_to_save.get(component, ()), adapter.word_embeddings.get(component)
        return module in whole or module == embedding

    return {
        component: {m: parts for m, parts in modules.items() if not is_beside(component, m)}
        for component, modules in weights.items()
        if component in adapter.targets
    }


def check(weights: Weights, adapter: plan.Adapter) -> None:
    """Raise ValueError, naming every fault, for weights that are not what the plan's adapter trains."""
    of = method(adapter.method)
    faults = []
    if of.SCALED and not adapter.alpha > 0:
        faults.append(f"alpha is {adapter.alpha}, and readers take 0 as alpha = rank")
    planned = {*adapter.modules, *adapter.word_embeddings}
    if set(weights) != planned:
        faults.append(f"components are {sorted(weights)}, planned are {sorted(planned)}")
    for component, paths in adapter.modules_to_save.items():
        lost = [path for path in paths if path not in weights.get(component, {})]
        faults += [f"{component}.{path} is trained whole, and is not here" for path in lost]
    tokens = [plan.token_of(word) for word in adapter.words]
    for component, path in adapter.word_embeddings.items():
        if list(weights.get(component, {}).get(path, {})) != tokens:
            faults.append(f"{component}.{path} has not the planned words, {', '.join(tokens)}")
    for component, modules in low_rank(weights, adapter).items():
        if len(modules) != adapter.modules.get(component, len(modules)):
            faults.append(f"{component} has {len(modules)} modules, planned are {adapter.modules[component]}")
        for module, parts in modules.items():
            if fault := of.fault(parts, module, adapter):
                faults.append(f"{component}.{module} {fault}")
    if faults:
        raise ValueError("; ".join(faults))
