"""What a family of pictures says where it has nothing of its own to say: see `runtime.families.protocol.Family`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from runtime import plan
from runtime.families.protocol import Batch, Modules


def recognise_config(config: dict[str, Any]) -> bool:
    """No Transformers folder is a base of pictures."""
    return False


def conditions(item: plan.Item, corner: tuple[int, int]) -> Batch:
    """Nothing beside the caption."""
    return {}


def export_name(component: str, module: str) -> str:
    """diffusers' own path."""
    return f"{component}.{module}"


def pattern(presets: Mapping[str, str], preset: str) -> str:
    """The regex that a preset stands for; "re:…" brings its own."""
    return preset[3:] if preset.startswith("re:") else presets[preset]


def listed(modules: Modules, *paths: str) -> dict[str, nn.Module]:
    """The blocks in these lists, each "COMPONENT.PATH", by name; nothing of a component that is not there."""
    found: dict[str, nn.Module] = {}
    for path in paths:
        component, _, inner = path.partition(".")
        if component in modules:
            blocks = modules[component].get_submodule(inner)
            found |= {f"{path}.{number}": block for number, block in enumerate(blocks)}
    return found
