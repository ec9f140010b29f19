"""Whether an operation can take an adapter: everything that it cannot is told at once, nothing is dropped in
silence."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import attrs

from runtime.errors import InputError, Problem
from runtime.lora_files.adapter import Adapter, Update
from runtime.lora_files.keys import Method, brief
from runtime.safeio import paths

LORA: tuple[Method, ...] = ("LoRA",)
ADDITIVE: tuple[Method, ...] = ("LoRA", "LoHa", "LoKr")
"""Methods whose change of a weight does not depend on it."""

WHY: dict[Method, str] = {
    "DoRA": "it scales the base's whole columns or rows, and consumers disagree about which",
    "LoHa": "it is an elementwise product of two LoRAs",
    "LoKr": "it is a Kronecker product",
    "OFT": "it rotates weights instead of adding to them",
    "GLoRA": "its change depends on the base's weights",
    "difference": "it holds whole differences, of no rank",
}
DROP = "--drop-unknown leaves such keys out"


def usable(
    adapter: Adapter, doing: str, methods: Collection[Method] = LORA, drop_unknown: bool = False
) -> Adapter:
    """The adapter, without the keys that are of no update of a weight if `drop_unknown`. `doing`: the operation, as in
    "cannot be merged". Raises InputError with everything that is wrong."""
    shown = paths.display(adapter.path)
    problems = [Problem(shown, what, hint) for what, hint in _faults(adapter, doing, methods)]
    if not drop_unknown:
        problems += [
            Problem(shown, f"{brief(name)} is trained whole, which cannot be {doing}", DROP)
            for name in adapter.whole
        ]
        problems += [Problem(shown, f"{brief(name)} is no LoRA's key", DROP) for name in adapter.rest]
    if problems:
        raise InputError(problems)
    return attrs.evolve(adapter, whole={}, rest={}) if drop_unknown else adapter


def finite(adapter: Adapter) -> Adapter:
    """The adapter. Raises InputError naming every tensor with NaN or infinity in it."""
    bad = [name for name, tensor in adapter.tensors() if not bool(tensor.float().isfinite().all())]
    if bad:
        shown = paths.display(adapter.path)
        hint = "take an earlier checkpoint of its training"
        raise InputError(
            [Problem(shown, f"{brief(name)} holds values that are not finite", hint) for name in bad]
        )
    return adapter


def matrices(update: Update) -> str:
    """What is wrong with a LoRA's matrices; empty if nothing is."""
    down, up = update.down, update.up
    if down is None or up is None:
        there = "down" if down is not None else "up" if up is not None else "alpha"
        return f"has only its {there} part"
    if down.ndim not in (2, 4) or up.ndim not in (2, 4) or up.shape[1] != down.shape[0]:
        return f"has matrices {tuple(up.shape)} and {tuple(down.shape)}, which do not multiply"
    if 0 in (*up.shape, *down.shape):
        return "has a matrix without a number in it"
    if "alpha" in update.parts and update.parts["alpha"].numel() != 1:
        return f"has {update.parts['alpha'].numel()} alphas"
    if up.ndim == 4 and up.shape[2:] != (1, 1):
        return f"has an up kernel of {up.shape[2]} × {up.shape[3]}, which no consumer takes"
    return ""


def _faults(adapter: Adapter, doing: str, methods: Collection[Method]) -> Iterator[tuple[str, str]]:
    found = {
        update.method: sum(u.method == update.method for u in adapter.updates.values())
        for update in adapter.updates.values()
    }
    for method, count in found.items():
        if method not in methods:
            yield f"its {count} {method} modules cannot be {doing}: {WHY[method]}", ""
        elif method == "LoKr" and adapter.style == "peft":
            yield f"its {count} LoKr modules cannot be {doing}: PEFT scales them unlike the trainers", ""
    for update in adapter.updates.values():
        wrong = matrices(update) if update.method == "LoRA" else ""
        if wrong:
            yield f"{brief(update.prefix)} {wrong}", "fetch the file again"
