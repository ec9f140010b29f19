"""An adapter at a lower rank, by singular values (Eckart and Young 1936), and how much of it that keeps."""

from __future__ import annotations

import attrs
import torch

from runtime.errors import Problem, SpecError
from runtime.lora_files.adapter import Adapter, At
from runtime.lora_files.factors import Pair, pair, rank_for, singular_values, truncated
from runtime.lora_files.rebuilt import Tell, rebuilt, rounding
from runtime.safeio import paths


@attrs.frozen
class Kept:
    """What one component keeps. `energy`: share of the squared Frobenius norm over all its modules; `worst`: the
    module that keeps the least of its own."""

    component: str
    modules: int
    ranks: tuple[int, int]
    energy: float
    worst: str
    worst_energy: float


def resized(
    adapter: Adapter, rank: int | None, energy: float | None, dtype: torch.dtype | None, tell: Tell
) -> tuple[Adapter, list[Kept], float]:
    """At most this rank, or in each module the lowest that keeps this share of its squared norm.

    Returns the adapter, what each component keeps, and how far its file's dtype rounds it. Raises SpecError where
    no module has a higher rank.
    """
    highest = max(update.rank for update in adapter.updates.values())
    if rank is not None and rank >= highest:
        what = f"has rank {highest} at most, so rank {rank} would change nothing"
        raise SpecError(Problem(paths.display(adapter.path), what, "give a lower --rank"))
    factors: dict[At, Pair] = {}
    for at, update in adapter.updates.items():
        found = pair(update)
        assert found is not None, "usable() comes before"
        factors[at] = found
    made, kept = reduced(factors, rank, energy, tell)
    result = rebuilt(adapter, made, dtype)
    return result, kept, rounding(made, result)


def reduced(
    factors: dict[At, Pair], rank: int | None, energy: float | None, tell: Tell
) -> tuple[dict[At, Pair], list[Kept]]:
    """Each product at its new rank, and what each component keeps."""
    made: dict[At, Pair] = {}
    rows: dict[At, tuple[int, float, float]] = {}
    for number, (at, (b, a)) in enumerate(factors.items()):
        tell(at[1], number / len(factors))
        to = rank if energy is None else rank_for(singular_values(b, a), energy)
        cut = truncated(b, a, to if to is not None else b.shape[1])
        made[at] = (cut.b, cut.a)
        rows[at] = (cut.b.shape[1], cut.lost, cut.whole)
    return made, summary(rows)


def summary(rows: dict[At, tuple[int, float, float]]) -> list[Kept]:
    """By component, of (rank, squared norm lost, squared norm before) of each module."""
    found = []
    for component in dict.fromkeys(at[0] for at in rows):
        own = {at: row for at, row in rows.items() if at[0] == component}
        shares = {at[1]: 1 - lost / whole if whole else 1.0 for at, (_, lost, whole) in own.items()}
        worst = min(shares, key=lambda module: shares[module])
        lost, whole = (sum(row[i] for row in own.values()) for i in (1, 2))
        ranks = [row[0] for row in own.values()]
        found.append(
            Kept(
                component=component,
                modules=len(own),
                ranks=(min(ranks), max(ranks)),
                energy=1 - lost / whole if whole else 1.0,
                worst=worst,
                worst_energy=shares[worst],
            )
        )
    return found
