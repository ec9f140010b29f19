"""A LoRA from two full models of one family: the best product of a rank for the difference of each weight.

Small matrices by a full decomposition (Eckart and Young 1936), larger ones by a randomised one (Halko, Martinsson and
Tropp 2011, as torch.svd_lowrank has it), seeded by the module's name: the same models give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b

import attrs
import torch
from torch import Tensor

from runtime.errors import InputError, Problem
from runtime.export.metadata import SPEC_VERSION
from runtime.lora_files.adapter import Adapter, At, Update
from runtime.lora_files.bases import Model
from runtime.lora_files.configs import alpha_tensor
from runtime.lora_files.factors import Pair
from runtime.lora_files.keys import brief
from runtime.lora_files.names import Names, Place
from runtime.lora_files.rebuilt import Tell
from runtime.lora_files.resize import Kept, summary
from runtime.safeio import paths

EXACT_SIDE = 512
"""The longest shorter side of a matrix that is decomposed whole."""

OVERSAMPLED = 16
ROUNDS = 4
"""Columns beyond the rank, and power iterations: the error is then within some per cent of the least possible for
flat spectra (Halko et al. 2011, section 10)."""


@attrs.frozen
class Extracted:
    """`unchanged`: modules that are the same in both; `other`: changed weights that a LoRA cannot hold (norms, biases,
    embeddings) by component."""

    adapter: Adapter
    kept: list[Kept]
    unchanged: int
    other: dict[str, int]


def extracted(base: Model, tuned: Model, rank: int, dtype: torch.dtype, tell: Tell) -> Extracted:
    """tuned - base at this rank, in kohya's style, alpha = rank. Raises InputError for models of different families
    or sizes, and where nothing that a LoRA can hold differs."""
    known, places = _alike(base, tuned)
    factors: dict[At, Pair] = {}
    rows: dict[At, tuple[int, float, float]] = {}
    shapes: dict[At, tuple[int, ...]] = {}
    unchanged = 0
    for number, place in enumerate(places):
        tell(place[1], number / len(places))
        difference = _difference(base, tuned, (place[0], f"{place[1]}.weight"))
        whole = difference.double().square().sum().item()
        if whole == 0:
            unchanged += 1
            continue
        at = (place[0], known.kohya(place))
        b, a, held = _decomposed(difference.flatten(1), rank, at[1])
        factors[at], shapes[at] = (b, a), tuple(difference.shape)
        rows[at] = (b.shape[1], max(whole - held, 0.0), whole)
    if not factors:
        what = f"differs from {paths.display(base.path)} in no weight that a LoRA can hold"
        raise InputError(Problem(paths.display(tuned.path), what, "give the tuned model second"))
    highest = {
        c: max(b.shape[1] for at, (b, _) in factors.items() if at[0] == c) for c in {at[0] for at in factors}
    }
    updates = {at: _update(at, pair, shapes[at], highest[at[0]], dtype) for at, pair in factors.items()}
    found = base.found
    assert found is not None
    said = known.family.metadata(found.base)
    metadata = {key: value for key, value in said.items() if key.startswith(("ss_", "modelspec."))}
    metadata |= {
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(max(highest.values())),
        "ss_network_alpha": str(float(max(highest.values()))),
        "ss_output_name": tuned.path.stem,
        "ss_sd_model_name": found.name,
        "modelspec.sai_model_spec": SPEC_VERSION,
        "modelspec.title": tuned.path.stem,
        "lorac.base_digest": found.base.digest,
    }
    made = Adapter(path=tuned.path, files=(), sha256="", style="kohya", updates=updates, metadata=metadata)
    return Extracted(made, summary(rows), unchanged, dict(_others(base, tuned, set(places))))


def _alike(base: Model, tuned: Model) -> tuple[Names, list[Place]]:
    """The linear layers and convolutions of both."""
    for model in (base, tuned):
        if model.names is None:
            what = "is a language model's folder, and extract takes picture models"
            raise InputError(Problem(paths.display(model.path), what))
    assert (
        base.names is not None
        and tuned.names is not None
        and base.found is not None
        and tuned.found is not None
    )
    if base.found.base.family != tuned.found.base.family:
        titles = (model.names.family.TITLE for model in (base, tuned) if model.names)
        what = "is {1}, and the base is {0}".format(*titles)
        raise InputError(Problem(paths.display(tuned.path), what, "take two models of one family"))
    problems = []
    places = []
    for component, weight in base.weights:
        module, _, leaf = weight.rpartition(".")
        if leaf != "weight" or base.names.canonical(component, module) is None:
            continue
        if (component, weight) not in tuned.weights:
            problems.append(Problem(paths.display(tuned.path), f"has no {brief(f'{component}.{weight}')}"))
            continue
        ours, theirs = (model.info(model.weights[component, weight][0]).shape for model in (base, tuned))
        if ours != theirs:
            what = f"{brief(f'{component}.{weight}')} is {tuple(theirs)}, in the base {tuple(ours)}"
            problems.append(
                Problem(paths.display(tuned.path), what, "take a model that was tuned from this base")
            )
        places.append((component, module))
    if problems:
        raise InputError(problems)
    return base.names, places


def _difference(base: Model, tuned: Model, weight: Place) -> Tensor:
    ours, theirs = (model.load(model.weights[weight][0]).float() for model in (base, tuned))
    return theirs - ours


def _decomposed(difference: Tensor, rank: int, name: str) -> tuple[Tensor, Tensor, float]:
    """(B, A, the squared norm that they hold) of a flat difference."""
    side = min(difference.shape)
    if side <= EXACT_SIDE or rank + OVERSAMPLED >= side:
        u, sigma, v = torch.linalg.svd(difference, full_matrices=False)
        v = v.T
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int.from_bytes(blake2b(name.encode(), digest_size=7).digest(), "little"))
            u, sigma, v = torch.svd_lowrank(difference, q=rank + OVERSAMPLED, niter=ROUNDS)
    kept = min(rank, side)
    root = sigma[:kept].sqrt()
    return u[:, :kept] * root, (v[:, :kept] * root).T, sigma[:kept].double().square().sum().item()


def _update(at: At, pair: Pair, shape: tuple[int, ...], alpha: int, dtype: torch.dtype) -> Update:
    b, a = pair
    rank = b.shape[1]
    inner = [1] * (len(shape) - 2)
    parts = {
        "down": a.reshape(rank, *shape[1:]).to(dtype).contiguous(),
        "up": (b * (rank / alpha)).reshape(shape[0], rank, *inner).to(dtype).contiguous(),
        "alpha": alpha_tensor(float(alpha), dtype),
    }
    ends = {"down": ".lora_down.weight", "up": ".lora_up.weight", "alpha": ".alpha"}
    names = {part: at[1] + ends[part] for part in parts}
    return Update(component=at[0], prefix=at[1], parts=parts, names=names, alpha=float(alpha))


def _others(base: Model, tuned: Model, places: set[Place]) -> Iterator[tuple[str, int]]:
    """(component, how many of its other weights differ)."""
    for component in dict.fromkeys(component for component, _ in base.weights):
        rest = [
            (c, weight)
            for c, weight in base.weights
            if c == component
            and (c, weight) in tuned.weights
            and not (weight.endswith(".weight") and (c, weight.removesuffix(".weight")) in places)
        ]
        changed = sum(_differs(base, tuned, weight) for weight in rest)
        if changed:
            yield component, changed


def _differs(base: Model, tuned: Model, weight: Place) -> bool:
    ours, theirs = (model.load(model.weights[weight][0]).float() for model in (base, tuned))
    return ours.shape != theirs.shape or not torch.equal(ours, theirs)
