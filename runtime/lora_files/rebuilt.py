"""New factors into an adapter's file: their strength is in B.

- Where alpha is a tensor it is one constant in each component: with mixed alphas diffusers scales wrongly in silence,
  with one all consumers are right whatever the ranks (facts/outputs.md rule 2).
- Elsewhere there is none, which all readers take as alpha = rank.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs
import torch
from torch import Tensor

from runtime.lora_files.adapter import ALPHA_FORM, CARRIED_CONFIGS, IN_DIFFUSERS, Adapter, At, Update
from runtime.lora_files.configs import alpha_tensor
from runtime.lora_files.factors import Pair, norm

Tell = Callable[[str, float], None]
"""Told what is being done and the share that is done."""

STALE = (ALPHA_FORM, CARRIED_CONFIGS, IN_DIFFUSERS)
PLAN = "lorac.plan_hash"
"""By this a run knows its own files; what was made of one is another's."""


def rebuilt(like: Adapter, factors: Mapping[At, Pair], dtype: torch.dtype | None = None) -> Adapter:
    """`like` with each module's change made B @ A, its strength in B. `dtype`: of the file, else each module's own.

    Of `like` come the style, the keys, the shape of kernels and the metadata, rank and alpha set anew.
    """
    highest: dict[str, int] = {}
    for at, (b, _) in factors.items():
        highest[at[0]] = max(highest.get(at[0], 1), b.shape[1])
    updates = {at: _update(like.updates[at], pair, highest[at[0]], dtype) for at, pair in factors.items()}
    metadata = {key: value for key, value in like.metadata.items() if key not in STALE}
    if PLAN in metadata:
        metadata["lorac.from_plan"] = metadata.pop(PLAN)
    if "ss_network_dim" in metadata:
        rank = max(update.rank for update in updates.values())
        metadata |= {"ss_network_dim": str(rank), "ss_network_alpha": str(float(rank))}
    return attrs.evolve(like, updates=updates, whole={}, rest={}, metadata=metadata)


def rounding(meant: Mapping[At, Pair], made: Adapter) -> float:
    """How far the file's numbers are from those meant: the norm of the difference to the norm of all, by Frobenius."""
    off = whole = 0.0
    for at, (b, a) in meant.items():
        update = made.updates[at]
        assert update.down is not None and update.up is not None
        stored_b, stored_a = update.up.float().flatten(1) * update.strength, update.down.float().flatten(1)
        off += norm(torch.cat([b, stored_b], dim=1), torch.cat([a, -stored_a], dim=0)) ** 2
        whole += norm(b, a) ** 2
    return (off / whole) ** 0.5 if whole else 0.0


def _update(old: Update, pair: Pair, alpha: int, dtype: torch.dtype | None) -> Update:
    b, a = pair
    down, up = old.down, old.up
    assert down is not None and up is not None
    saved = dtype or down.dtype
    rank = b.shape[1]
    kind = "embedding_" if old.embedding else ""
    names = {part: old.names[part] for part in (f"{kind}down", f"{kind}up")}
    parts: dict[str, Tensor] = {}
    if "alpha" in old.parts or "." not in old.prefix:
        parts["alpha"], names["alpha"] = alpha_tensor(float(alpha), saved), f"{old.prefix}.alpha"
        b = b * (rank / alpha)  # exact where every rank is the same
    kernel = old.parts["mid"].shape[2:] if "mid" in old.parts else down.shape[2:]
    parts[f"{kind}down"] = a.reshape(rank, down.shape[1], *kernel).to(saved).contiguous()
    parts[f"{kind}up"] = b.reshape(b.shape[0], rank, *up.shape[2:]).to(saved).contiguous()
    stated = float(alpha) if "alpha" in parts else None
    return Update(component=old.component, prefix=old.prefix, parts=parts, names=names, alpha=stated)
