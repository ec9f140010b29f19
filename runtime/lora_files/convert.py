"""Between kohya's, diffusers' and PEFT's names, there and back bit for bit.

Where a style has no alpha tensor, alpha goes into its configuration, and how the tensor looked into the metadata;
where a style has no configuration, that goes into the metadata. No matrix is touched.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Literal

import attrs

from runtime.errors import InputError, Problem
from runtime.lora_files import keys
from runtime.lora_files.adapter import (
    ALPHA_FORM,
    CARRIED_CONFIGS,
    IN_DIFFUSERS,
    Adapter,
    AlphaForm,
    At,
    Config,
    Update,
    alpha_forms,
)
from runtime.lora_files.configs import alpha_tensor, forms_text
from runtime.lora_files.keys import brief
from runtime.lora_files.names import Names, Place, placed
from runtime.safeio import paths

Target = Literal["kohya", "diffusers", "peft"]


def converted(adapter: Adapter, to: Target, among: Names | None = None) -> tuple[Adapter, list[str]]:
    """The adapter in another style, and what a reader of it should know. `among`: the family, else found by names.

    Raises InputError for names that are no module's of the family, each of them, and for what the style cannot say.
    """
    found = placed(adapter, among)
    _check(adapter, found.places, to)
    forms = alpha_forms(adapter)
    made = {
        at: dressed(found.names, place, to, adapter.updates[at], _form(forms, place))
        for at, place in found.places.items()
    }
    kept = {
        key: value
        for key, value in adapter.metadata.items()
        if key not in (ALPHA_FORM, CARRIED_CONFIGS, IN_DIFFUSERS)
    }
    # Where the form of alphas is known, configurations were made of it and say nothing more.
    configs = {} if forms else _by_component(adapter, found.places)
    if to != "kohya" and (text := _forms(adapter, found.places, to)):
        kept[ALPHA_FORM] = text
    result = attrs.evolve(
        adapter,
        style=to,
        updates={(update.component, update.prefix): update for update in made.values()},
        metadata=kept,
        configs=configs,
    )
    renamed = [
        prefix
        for (_, prefix), place in found.places.items()
        if "." not in prefix and prefix != found.names.kohya(place)
    ]
    return result, notes(adapter, result, renamed)


def dressed(
    names: Names, place: Place, style: Target, update: Update, form: AlphaForm | str | None = ""
) -> Update:
    """One module's update in another style. `form`: of its alpha tensor, None for no tensor, "" for the usual one."""
    down, up = update.down, update.up
    assert down is not None and up is not None, "usable() comes before"
    if style == "kohya":
        prefix, ends = names.kohya(place), (".lora_down.weight", ".lora_up.weight")
    else:
        prefix = names.diffusers(place) if style == "diffusers" else keys.PEFT_PREFIX + place[1]
        ends = (".lora_A.weight", ".lora_B.weight")
    parts = {"down": down, "up": up}
    named = {"down": prefix + ends[0], "up": prefix + ends[1]}
    alpha = None if form is None else update.alpha
    if style == "kohya" and alpha is not None:
        known = None if isinstance(form, str) else form
        parts["alpha"] = alpha_tensor(alpha, down.dtype, known or update.alpha_form)
        named["alpha"], alpha = f"{prefix}.alpha", parts["alpha"].double().item()
    return Update(component=place[0], prefix=prefix, parts=parts, names=named, alpha=alpha)


def notes(before: Adapter, after: Adapter, renamed: Sequence[str]) -> list[str]:
    """What is not the same to every reader of the new file. `renamed`: names in kohya's style that are not kohya's."""
    said = []
    updates = after.updates.values()
    off = sum(update.alpha is not None and update.alpha != update.rank for update in updates)
    uneven = len({(update.alpha, update.rank) for update in updates}) > 1
    rounded = sum(
        old.alpha is not None and new.alpha != old.alpha
        for old, new in zip(before.updates.values(), updates, strict=True)
    )
    if after.style == "diffusers" and off:
        said.append(
            f"alpha differs from the rank in {off} modules: diffusers reads it from the metadata"
            f" ({IN_DIFFUSERS}); ComfyUI and older diffusers do not, and apply them at another strength"
        )
    if after.style == "peft" and uneven:
        said.append(
            "ranks or alphas differ between modules: PEFT reads the patterns, vLLM and llama.cpp do not"
        )
    if after.style == "kohya":
        if len({update.alpha for update in updates}) > 1:
            said.append(
                "alphas differ between modules: diffusers scales such a file wrongly, WebUI and ComfyUI do not"
            )
        if rounded:
            said.append(f"alpha of {rounded} modules is rounded to float32")
        if any((of or {}).get("use_rslora") for of in before.configs.values()):
            said.append(
                "rsLoRA has no key in this style: alpha is written as alpha · √rank, to the same strength"
            )
    if renamed and after.style != "kohya":
        said.append(f"{len(renamed)} names, such as {renamed[0]}, come back as kohya's own")
    if before.style == "diffusers, old":
        said.append("names of diffusers before 0.20 come back as today's")
    return said


def _check(adapter: Adapter, places: Mapping[At, Place], to: Target) -> None:
    shown = paths.display(adapter.path)
    problems = []
    taken: dict[Place, str] = {}
    for at, place in places.items():
        update = adapter.updates[at]
        odd = sorted(set(update.parts) - {"down", "up", "alpha"})
        if place in taken:
            problems.append(Problem(shown, f"{brief(at[1])} and {brief(taken[place])} are one module"))
        taken[place] = at[1]
        if odd:
            what = f"{brief(update.names[odd[0]])} has no name in the style {to}"
            problems.append(Problem(shown, what, "resize it first: that leaves two matrices and alpha"))
    if problems:
        raise InputError(problems)


def _form(forms: Mapping[str, AlphaForm | None], place: Place) -> AlphaForm | str | None:
    return forms.get(".".join(place), forms.get("*", ""))


def _forms(adapter: Adapter, places: Mapping[At, Place], to: Target) -> str:
    """`ALPHA_FORM` for a file without alpha tensors; empty where there is nothing to keep.

    PEFT always says an alpha, so for it is kept that there was none. What came from a configuration goes back there.
    """
    if ALPHA_FORM in adapter.metadata:
        return adapter.metadata[ALPHA_FORM]
    forms = {".".join(place): adapter.updates[at].alpha_form for at, place in places.items()}
    if adapter.configs or not (to == "peft" or any(forms.values())):
        return ""
    return json.dumps(forms_text(forms), separators=(",", ":"))


def _by_component(adapter: Adapter, places: Mapping[At, Place]) -> dict[str, Config]:
    """The configurations by the components that the updates turned out to be of."""
    return {places[at][0]: adapter.configs[at[0]] for at in places if at[0] in adapter.configs}
