"""The arithmetic by which Stable Diffusion WebUI 1.10.1 and ComfyUI 0.3.64 read LyCORIS' kin, written anew.

Rules of WebUI's network_hada.py, network_lokr.py and network.py (apply_weight_decompose), of ComfyUI's
comfy/weight_adapter/ (loha.py, lokr.py, base.py: weight_decompose). They agree, but for magnitudes of rows, which
neither reads as they are meant (facts/outputs.md rule 6): those are refused here. No line is copied.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tests.consumers.loaded import Refused

LOHA = frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"})


def is_lokr(keys: set[str]) -> bool:
    """Whether both matrices are there, whole or as a product."""
    return all(
        f"lokr_{side}" in keys or {f"lokr_{side}_a", f"lokr_{side}_b"} <= keys for side in ("w1", "w2")
    )


def change(parts: Mapping[str, Tensor]) -> Tensor:
    """What a LoHa or LoKr adds to a weight, (out, everything else)."""
    if parts.keys() >= LOHA:
        scale = _scale(parts, "hada_w1_b")
        return scale * (parts["hada_w1_a"] @ parts["hada_w1_b"]) * (parts["hada_w2_a"] @ parts["hada_w2_b"])
    scale = _scale(parts, *(part for part in ("lokr_w2_b", "lokr_w1_b") if part in parts))
    w1, w2 = (_whole(parts, f"lokr_{side}") for side in ("w1", "w2"))
    if w2.ndim == 4:
        w1 = w1[:, :, None, None]
    return scale * torch.kron(w1, w2).flatten(1)


def decomposed(added: Tensor, weight: Tensor, magnitudes: Tensor) -> Tensor:
    """The change of a weight with DoRA: `added`, (out, everything else), is what the matrices alone would add."""
    if magnitudes.shape[0] != 1:
        raise Refused("magnitudes of rows come out wrong")
    merged = weight + added.reshape(weight.shape)
    lengths = merged.transpose(0, 1).flatten(1).norm(dim=1).reshape(magnitudes.shape)
    return (merged * (magnitudes / lengths) - weight).flatten(1)


def _whole(parts: Mapping[str, Tensor], name: str) -> Tensor:
    return parts[name] if name in parts else parts[f"{name}_a"] @ parts[f"{name}_b"]


def _scale(parts: Mapping[str, Tensor], *ranked: str) -> float:
    return parts["alpha"].item() / parts[ranked[0]].shape[0] if ranked and "alpha" in parts else 1.0
