"""What a consumer made of a file: the change of each module it took, and the keys it left."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import attrs
from safetensors.torch import load_file
from torch import Tensor

Changes = dict[tuple[str, str], Tensor]
"""(component, module by diffusers' and transformers' names) -> what is added to its weight, (out,
everything else)."""


Bases = Mapping[tuple[str, str], Tensor]
"""(component, module) -> its weight before."""


class Refused(Exception):
    """The consumer takes nothing of the file."""


@attrs.frozen
class Loaded:
    """`left`: keys that changed nothing."""

    changes: Changes
    left: list[str]


def read(path: Path) -> dict[str, Tensor]:
    """A file's tensors as float32, by key."""
    return {key: tensor.float() for key, tensor in load_file(path).items()}


def product(up: Tensor, down: Tensor, scale: float) -> Tensor:
    """scale · up @ down, with kernels laid flat."""
    return scale * up.flatten(1) @ down.flatten(1)


def unlike(found: Changes, expected: Mapping[tuple[str, str], Tensor], tolerance: float = 1e-4) -> list[str]:
    """What differs, in words; empty where every module and nothing else is changed as it should be."""
    wrong = [f"{module} is not changed" for module in expected.keys() - found.keys()]
    wrong += [f"{module} should not be changed" for module in found.keys() - expected.keys()]
    for module in expected.keys() & found.keys():
        size = expected[module].abs().max().item()
        error = (found[module].reshape(expected[module].shape) - expected[module]).abs().max().item()
        if not error <= tolerance * max(size, 1.0):
            wrong.append(f"{module} is changed wrongly by {error:.3g} of {size:.3g}")
    return sorted(map(str, wrong))
