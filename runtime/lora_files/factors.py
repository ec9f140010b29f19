"""The mathematics of low-rank updates, on their factors: no product of the size of a weight is formed where a QR
decomposition of the factors does.

With B = Q_B R_B and Aᵀ = Q_A R_A, the singular values of B @ A are those of the small R_B R_Aᵀ. Factors are float32,
flat: B (out, rank), A (rank, in · kernel); the small matrices are taken in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from runtime.lora_files.adapter import Update

Pair = tuple[Tensor, Tensor]
"""(B, A)."""


def pair(update: Update) -> Pair | None:
    """A module's change as B @ A, its strength in B. None where its method is no product of two matrices.

    A Tucker core (LyCORIS `lora_mid`, rank × rank × k × k) is multiplied into A; LoHa's two products become one of
    rank² (Khatri-Rao).
    """
    parts = {name: tensor.float() for name, tensor in update.parts.items()}
    if update.method == "LoRA" and update.down is not None and update.up is not None:
        down, up = update.down.float(), update.up.float()
        if "mid" in parts:
            down = torch.einsum("rskl,si->rikl", parts["mid"], down.flatten(1))
        return up.flatten(1) * update.strength, down.flatten(1)
    if update.method == "LoHa" and _has(parts, "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"):
        if "hada_t1" in parts or "hada_t2" in parts:
            return None
        left, right = parts["hada_w1_a"], parts["hada_w2_a"]
        b = (left[:, :, None] * right[:, None, :]).flatten(1)
        a = (parts["hada_w1_b"][:, None, :] * parts["hada_w2_b"][None, :, :]).flatten(0, 1)
        return b * update.strength, a
    return None


def change(update: Update, shape: Sequence[int]) -> Tensor | None:
    """The whole change of a weight of this shape, float32. None where it is not defined without the base's weight
    (DoRA), is of a Tucker LoKr or LoHa, lacks a part, or does not fit the shape."""
    if update.method == "LoKr":
        found = _kronecker(update, shape)
    else:
        factors = pair(update)
        if factors is None or factors[0].shape[1] != factors[1].shape[0]:
            return None
        found = factors[0] @ factors[1]
        found = found.T if update.embedding else found
    return found.reshape(tuple(shape)) if found is not None and _fits(found, shape) else None


def spectrum(update: Update) -> Tensor | None:
    """The singular values of a module's change, largest first, float64. None as for `change`."""
    if update.method == "LoKr":
        sides = _kronecker_sides(update)
        if sides is None:
            return None
        left, right = (torch.linalg.svdvals(side.flatten(1).double()) for side in sides)
        return torch.outer(left, right).flatten().sort(descending=True).values * abs(_lokr_strength(update))
    factors = pair(update)
    return None if factors is None else singular_values(*factors)


def singular_values(b: Tensor, a: Tensor) -> Tensor:
    """Of B @ A, largest first, float64, as many as rank and sides allow."""
    return torch.linalg.svdvals(_core(b, a)[2])


@attrs.frozen
class Truncated:
    """The best approximation of a lower rank (Eckart and Young 1936). `energy`: its share of the squared Frobenius
    norm, `lost`: the squared norm of what is cut off, `whole`: of all."""

    b: Tensor
    a: Tensor
    lost: float
    whole: float

    @property
    def energy(self) -> float:
        return 1.0 if self.whole == 0 else 1.0 - self.lost / self.whole


def truncated(b: Tensor, a: Tensor, rank: int) -> Truncated:
    """B @ A at this rank, or at its own where that is lower. Each side gets the roots of the singular values."""
    q_b, q_a, core = _core(b, a)
    u, sigma, v = torch.linalg.svd(core)
    kept = min(rank, len(sigma))
    root = sigma[:kept].sqrt()
    return Truncated(
        b=q_b @ (u[:, :kept] * root).float(),
        a=(root[:, None] * v[:kept]).float() @ q_a.T,
        lost=sigma[kept:].square().sum().item(),
        whole=sigma.square().sum().item(),
    )


def rank_for(sigma: Tensor, energy: float) -> int:
    """The lowest rank that keeps this share of the squared norm; at least 1."""
    squares = sigma.double().square()
    whole = squares.sum()
    if whole == 0:
        return 1
    # The share is compared with rounding allowed for, so that 1.0 can be reached.
    reached = squares.cumsum(0) >= energy * whole * (1 - 1e-12)
    return min(int((~reached).sum()) + 1, len(sigma))


def concatenated(pairs: Sequence[Pair]) -> Pair:
    """The sum of products as one product: ranks side by side, exactly."""
    return torch.cat([b for b, _ in pairs], dim=1), torch.cat([a for _, a in pairs], dim=0)


def norm(b: Tensor, a: Tensor) -> float:
    """The Frobenius norm of B @ A."""
    return singular_values(b, a).square().sum().sqrt().item()


def _core(b: Tensor, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q_b, r_b = torch.linalg.qr(b)
    q_a, r_a = torch.linalg.qr(a.T)
    return q_b, q_a, r_b.double() @ r_a.double().T


def _has(parts: dict[str, Tensor], *names: str) -> bool:
    return all(name in parts for name in names)


def _fits(found: Tensor, shape: Sequence[int]) -> bool:
    return found.numel() == math.prod(shape) and found.shape[0] == shape[0]


def _kronecker_sides(update: Update) -> tuple[Tensor, Tensor] | None:
    """LoKr's two matrices (Edalati et al. 2022, as LyCORIS stores them), each whole or as a product."""
    if "lokr_t2" in update.parts:
        return None
    sides = []
    for side in ("lokr_w1", "lokr_w2"):
        parts = [
            update.parts[f"{side}{end}"].float() for end in ("", "_a", "_b") if f"{side}{end}" in update.parts
        ]
        if not parts or (len(parts) == 1 and side not in update.parts):
            return None
        sides.append(parts[0] if len(parts) == 1 else parts[0] @ parts[1].flatten(1))
    return sides[0], sides[1]


def _lokr_strength(update: Update) -> float:
    """alpha / rank where a side is a product, else 1 (facts/outputs.md 1.1)."""
    return update.strength if update.rank else 1.0


def _kronecker(update: Update, shape: Sequence[int]) -> Tensor | None:
    sides = _kronecker_sides(update)
    if sides is None:
        return None
    left, right = sides
    kernel = tuple(shape[2:])
    if kernel and right.ndim == 2:
        if right.shape[1] % math.prod(kernel):
            return None
        right = right.reshape(right.shape[0], -1, *kernel)
    if right.ndim == 4:
        left = left.reshape(*left.shape[:2], 1, 1)
    return torch.kron(left, right.contiguous()) * _lokr_strength(update)
