"""How a family's modules are called in each style of file, there and back.

kohya's names have lost their dots, so a name is found by naming every module that the family has. Where a name only
flattens the path, numbers may be others than the published model's: a base with more or fewer blocks has the same
names. Nothing here knows a family: all comes from its `export_name` and the modules that it builds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache

import attrs
import torch
from torch import nn

from runtime.errors import InputError, Problem
from runtime.export.diffusers import published
from runtime.families import FAMILIES, family
from runtime.families.protocol import Family
from runtime.lora_files import keys
from runtime.lora_files.adapter import Adapter, At, Update
from runtime.lora_files.keys import CLIP_LEVEL, brief
from runtime.safeio import paths

Place = tuple[str, str]
"""(component, module path as the installed library calls it)."""

ALIASES = (
    (r"^lora_te1_", "lora_te_"),
    (r"^lora_te_", "lora_te1_"),
    (r"^lora_(te\d?)_encoder_", r"lora_\1_text_model_encoder_"),
    (r"^lora_te1_encoder_", "lora_te_text_model_encoder_"),
    (r"^lycoris_", "lora_unet_"),
)
"""Names that some trainers wrote and some consumers take -> kohya's (facts/outputs.md rules 3 and 4, 1.1)."""


@attrs.frozen(eq=False)
class Names:
    """A family's linear layers and convolutions. `exact`: kohya's name -> place, of the published model; `flat`:
    patterns of names of the same kind; `kinds`: the paths with # for each number; `shapes`: of published weights."""

    family: Family
    exact: Mapping[str, Place]
    flat: tuple[tuple[re.Pattern[str], str, str], ...]
    kinds: Mapping[str, frozenset[str]]
    shapes: Mapping[Place, tuple[int, ...]]

    def place(self, update: Update) -> Place | None:
        """Where in the model an update of any style acts; None where the family has no such module."""
        style = keys.Key(update.prefix, next(iter(_suffixes(update)))).style
        if style == "kohya":
            return self._kohya(update.prefix)
        if style == "peft":
            module = update.prefix.removeprefix(keys.PEFT_PREFIX)
            among = [update.component] if update.component in self.kinds else list(self.kinds)
            return next((found for c in among if (found := self.canonical(c, module))), None)
        if style in ("diffusers", "diffusers, old"):
            component, module = keys.pipeline_module(update.prefix, next(iter(_suffixes(update))))
            return self.canonical(component, module)
        return None

    def canonical(self, component: str, module: str) -> Place | None:
        """The place of a path that may have or lack CLIP's `text_model` level, which transformers >= 5.6 dropped."""
        for path in (module, module.removeprefix(CLIP_LEVEL), CLIP_LEVEL + module):
            if kind(path) in self.kinds.get(component, frozenset()):
                return component, path
        return None

    def kohya(self, place: Place) -> str:
        """A place's name in kohya's style."""
        return self.family.export_name(*place)

    def diffusers(self, place: Place) -> str:
        """A place's name in diffusers' style."""
        return f"{place[0]}.{published(self.family, *place)}"

    def _kohya(self, prefix: str) -> Place | None:
        tried = [prefix, *(re.sub(old, new, prefix) for old, new in ALIASES if re.match(old, prefix))]
        return next((found for name in tried if (found := self._exactly(name))), None)

    def _exactly(self, name: str) -> Place | None:
        if name in self.exact:
            return self.exact[name]
        for pattern, component, template in self.flat:
            found = pattern.fullmatch(name)
            if found:
                place = (component, template.format(*found.groups()))
                if self.family.export_name(*place) == name:
                    return place
        return None


def kind(module: str) -> str:
    """A module's path with # for each number that is a part of it."""
    return ".".join("#" if part.isdigit() else part for part in module.split("."))


@cache
def names(name: str) -> Names:
    """The names of a family. Builds its published model without weights."""
    of = family(name)
    architecture = of.published()
    exact: dict[str, Place] = {}
    flat: dict[tuple[str, str], tuple[re.Pattern[str], str, str]] = {}
    kinds: dict[str, frozenset[str]] = {}
    shapes: dict[Place, tuple[int, ...]] = {}
    for component in (of.BACKBONE, *of.TEXT_ENCODERS):
        with torch.device("meta"):
            built = of.build(architecture, component)
        layers = {n: m for n, m in built.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
        kinds[component] = frozenset(map(kind, layers))
        for module, layer in layers.items():
            called = of.export_name(component, module)
            exact[called] = (component, module)
            shapes[component, module] = tuple(layer.weight.shape)
            flattened = module.replace(".", "_")
            if called.endswith(flattened):
                stem = called.removesuffix(flattened)
                flat.setdefault((component, stem + kind(module)), _pattern(stem, component, module))
    return Names(of, exact, tuple(flat.values()), kinds, shapes)


def _pattern(stem: str, component: str, module: str) -> tuple[re.Pattern[str], str, str]:
    parts = module.split(".")
    pattern = "_".join(r"(\d+)" if part.isdigit() else re.escape(part) for part in parts)
    template = ".".join("{}" if part.isdigit() else part for part in parts)
    return re.compile(re.escape(stem) + pattern), component, template


def _suffixes(update: Update) -> Iterable[str]:
    """How the update's keys end, those of its matrices first: they tell diffusers' old styles apart."""
    order = sorted(update.names, key=lambda part: part in ("alpha", "scale", "magnitude"))
    return (update.names[part].removeprefix(update.prefix) for part in order)


# ---------------------------------------------------------------------------------------------------- which family


@attrs.frozen(eq=False)
class Placed:
    """An adapter's updates in a family's terms; `unknown`: prefixes that are no module's there."""

    names: Names
    places: Mapping[At, Place]
    unknown: tuple[str, ...]


def _with_other_names() -> list[str]:
    """The families whose LoRAs have names beside PEFT's: those of pictures."""
    return [name for name in FAMILIES if "diffusers" in family(name).EXPORTS]


def best(adapter: Adapter) -> Placed | None:
    """The adapter in terms of the family that knows most of its modules, best with their sizes too; None where none
    knows any."""
    tried = [_placed(adapter, names(name)) for name in _with_other_names()]
    found = max(tried, key=lambda one: (len(set(one.places.values())), _fitting(adapter, one)))
    return found if found.places else None


def placed(adapter: Adapter, among: Names | None = None) -> Placed:
    """As `best`, or in terms of this family. Raises InputError with every name that is no module's."""
    found = best(adapter) if among is None else _placed(adapter, among)
    shown = paths.display(adapter.path)
    if found is None:
        known = ", ".join(family(name).TITLE for name in _with_other_names())
        raise InputError(
            Problem(shown, "its names are of no family with names in other styles", f"lorac knows {known}")
        )
    if found.unknown:
        title = found.names.family.TITLE
        raise InputError(
            [
                Problem(
                    shown, f"{brief(name)} is no module of {title}", "--drop-unknown leaves such keys out"
                )
                for name in found.unknown
            ]
        )
    return found


def _placed(adapter: Adapter, among: Names) -> Placed:
    places = {at: place for at, update in adapter.updates.items() if (place := among.place(update))}
    unknown = tuple(at[1] for at in adapter.updates if at not in places)
    return Placed(among, places, unknown)


def _fitting(adapter: Adapter, placed: Placed) -> int:
    return sum(
        _fits(adapter.updates[at], placed.names.shapes.get(place)) for at, place in placed.places.items()
    )


def _fits(update: Update, shape: tuple[int, ...] | None) -> bool:
    if shape is None or update.down is None or update.up is None:
        return False
    return (update.up.shape[0], update.down.shape[1]) == shape[:2]
