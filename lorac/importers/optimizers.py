"""What trainers call the optimizers, and what their arguments are in lorac's."""

from __future__ import annotations

import re
from typing import Any

import attrs

from lorac.importers.ledger import OFF, Ledger, Path, is_off
from lorac.spec import Adafactor, AdamW, Lion, Prodigy, ScheduleFreeAdamW

FIELD = "train.optimizer"
EIGHT = "fit.optimizer_bits"
PAGED = "fit.paged_optimizer"

NAMES: dict[str, type] = {
    **dict.fromkeys(("adamw", "adamwtorch", "adamwtorchfused", "adamwbnb", "adamwhf", "adamwbf16"), AdamW),
    **dict.fromkeys(("aoadamw", "optimiadamw", "bnbadamw", "adamwanyprecision"), AdamW),
    "adafactor": Adafactor,
    **dict.fromkeys(("lion", "lionpytorch", "bnblion", "optimilion"), Lion),
    "prodigy": Prodigy,
    **dict.fromkeys(("adamwschedulefree", "schedulefreeadamw"), ScheduleFreeAdamW),
}
"""By the names that torch, bitsandbytes, transformers and the trainers give, without -, _, and what says in how many
bits or where its state is kept."""

OWN_RATE = ("dadapt", "automagic", "prodigy")
"""How names begin of optimizers that find their own rate, and that lorac does not have (or has: Prodigy)."""


@attrs.frozen
class Named:
    """What an optimizer's name says; `kind` is None for one that lorac does not have."""

    kind: type | None
    bits: int
    paged: bool
    own_rate: bool


def named(value: Any) -> Named:
    """What a name says of an optimizer."""
    name = re.sub(r"[-_]", "", str(value).strip().lower().split(".")[-1])
    plain = re.sub(r"paged|8bit|32bit|8$", "", name)
    kind = NAMES.get(plain)
    own = kind is None and plain.startswith(OWN_RATE)
    return Named(kind, 8 if "8bit" in name or name == "adamw8" else 32, "paged" in name, own)


def carry(book: Ledger, path: Path | None, name: Any, rates: tuple[Path, ...] = ()) -> type | None:
    """Carry an optimizer; the `rates` of one that finds its own, and that lorac has not, are no rates for AdamW.

    Which of lorac's it is; None where it has no such one. `path` is None where the trainer's default stands.
    """
    found = named(name)
    if found.kind is None:
        if path is not None:
            book.left(path, f"lorac has {', '.join(kind.__name__ for kind in dict.fromkeys(NAMES.values()))}")
        if found.own_rate:
            for rate in rates:
                book.left(rate, f"a rate for {name}, which scales it by itself; choose one for AdamW")
            book.todo.append(
                f"train.learning_rate: {name} found its own; 1e-4 (lorac's default) is a beginning for AdamW"
            )
        return None
    paths, comment = () if path is None else (path,), "" if path else f"{name}, by default"
    if found.kind is not AdamW:
        book.choose(FIELD, found.kind, *paths)
    elif path is not None and not (found.bits == 8 or found.paged):
        book.ours(path, "AdamW, lorac's own")
    if found.bits == 8 and found.kind is AdamW:
        book.carry(EIGHT, 8, *paths, comment=comment)
    elif found.bits == 8:
        book.todo.append(f"{FIELD}: {name} kept its state in 8 bits; lorac's {found.kind.__name__} has 32")
    if found.paged:
        book.carry(PAGED, True, *paths, comment=comment)
    return found.kind


ALIKE = {
    "decouple": (True, None),
    "decoupled_decay": (True, None),
    "relative_step": OFF,
    "warmup_init": OFF,
    "amsgrad": OFF,
    "fsdp_in_use": OFF,
    "slice_p": (1, None),
    "beta3": (None,),
    "r": OFF,
    "weight_lr_power": (2, None),
    "warmup_steps": OFF,
    "use_triton": OFF,
    "fused": (True, *OFF),
    "foreach": (True, *OFF),
    "stochastic_rounding": OFF,
    "eps2": (1e-3, None),
}
"""Arguments that need no word where they say this: it is as lorac does it."""

NOTHING = (None, "inf")
"""What an argument says that says nothing: no number, no limit."""

OTHER_NAMES = {"use_bias_correction": "bias_correction", "decay_rate": "decay_power"}
"""lorac's names of arguments that trainers call otherwise."""


def takes(kind: type, name: str) -> bool:
    """Whether lorac's optimizer has an argument of this name."""
    return name == "betas" or OTHER_NAMES.get(name, name) in {field.name for field in attrs.fields(kind)}


def arguments(book: Ledger, path: Path, kind: type | None, given: dict[str, Any]) -> None:
    """Carry an optimizer's arguments that came under one key; the key is left if one of them cannot be carried."""
    if kind is None:
        book.left(path, "arguments of an optimizer that lorac does not have")
        return
    fields = {field.name for field in attrs.fields(kind)}
    unknown = []
    for name, value in _spread(given).items():
        field = OTHER_NAMES.get(name, name)
        if field in fields and not is_off(value, NOTHING):
            told = path[-1] if path[-1] == name else f"{path[-1]}: {name}"
            changed = -value if name == "decay_rate" and isinstance(value, int | float) else value
            book.carry(f"{FIELD}.{field}", changed, path, comment=str(told))
        elif field not in fields and not (name in ALIKE and is_off(value, ALIKE[name])):
            unknown.append(name)
    if unknown:
        has = ", ".join(sorted(fields))
        book.left(path, f"lorac's {kind.__name__} has {has}, not {', '.join(unknown)}; the rest was carried")
    elif path in set(book.open()):
        book.ours(path, f"as lorac's {kind.__name__} does it")


def _spread(given: dict[str, Any]) -> dict[str, Any]:
    """`betas` as beta1 and beta2, `eps` of a pair as its first."""
    spread = {name: value for name, value in given.items() if name not in ("betas", "eps")}
    for name, parts in (("betas", ("beta1", "beta2")), ("eps", ("eps", "eps2"))):
        value = given.get(name)
        if isinstance(value, tuple | list) and len(value) == 2:
            spread |= dict(zip(parts, value, strict=True))
        elif name in given:
            spread[name] = value
    return spread


def assume(book: Ledger) -> None:
    """What the optimizers' own libraries take where a config is silent, and lorac would not."""
    if book.kinds.get(FIELD) in (Lion, Prodigy, ScheduleFreeAdamW):
        book.assume(f"{FIELD}.weight_decay", 0.0, "the optimizer's own default of weight_decay")


def average(book: Ledger, switch: Path, decay: Path, default: float, source: str) -> None:
    """Carry an exponential moving average of the weights that `switch` turns on."""
    if switch not in book.entries or is_off(book.entries[switch], (*OFF, "off")):
        return
    if decay in book.entries:
        book.carry("train.ema", book.entries[decay], switch, decay)
    else:
        book.carry("train.ema", default, switch, comment=f"{source}'s default of ema_decay")
