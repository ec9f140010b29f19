"""What a LoRA file is: style, family, ranks, how strongly it changes what, its hashes, and what is wrong with it."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor

from runtime.lora_files import findings, keys
from runtime.lora_files.adapter import Adapter, At, Update
from runtime.lora_files.factors import rank_for, spectrum
from runtime.lora_files.findings import Finding
from runtime.lora_files.names import best
from runtime.lora_files.rebuilt import Tell
from runtime.safeio import digest, paths, safetensors
from runtime.safeio.tensors import dtype_name

MOST_ENERGY = 0.95
"""Share of the squared norm by which `needed_rank` is measured."""

SIGNS = (
    (
        "Stable Diffusion XL",
        ("lora_te2_", "_transformer_blocks_9_", "unet.mid_block.attentions.0.transformer_blocks.9."),
    ),
    ("Flux.1", ("double_blocks_", "single_transformer_blocks", "double_blocks.")),
    ("Stable Diffusion 3", ("joint_blocks_", "joint_blocks.", "transformer_blocks.0.attn.add_q_proj")),
    ("Wan", ("blocks_0_cross_attn_", "blocks.0.cross_attn.")),
    ("a language model", (".self_attn.q_proj", ".self_attn.v_proj", ".mlp.down_proj", ".self_attn.qkv_proj")),
)
"""Parts of names that tell the families lorac does not load (facts/outputs.md 1.3)."""

CROSS_ATTENTION = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}
"""Width of the text that `attn2.to_k` reads: CLIP-L, OpenCLIP-H, both of SDXL's."""


@attrs.frozen(kw_only=True)
class Module:
    """One module's update. `frobenius`, `spectral`: norms of the change of the weight, strength and all; None where
    they cannot be told without the base. `needed_rank`: the rank that keeps 95 % of the squared norm."""

    component: str
    name: str
    kind: str
    method: str
    rank: int
    alpha: float | None
    strength: float | None
    frobenius: float | None
    spectral: float | None
    needed_rank: int | None


@attrs.frozen(kw_only=True)
class Component:
    """One network's updates, counted. `frobenius` is over all its modules; `strongest` by the spectral norm."""

    name: str
    modules: int
    kinds: dict[str, int]
    methods: dict[str, int]
    ranks: dict[str, int]
    alphas: dict[str, int]
    strengths: dict[str, int]
    parameters: int
    frobenius: float | None
    spectral: float | None
    strongest: str
    needed_rank: tuple[int, int] | None
    unchanged: int


@attrs.frozen(kw_only=True)
class Whole:
    """A weight that is trained whole, by its module's path in the model; `size` in bytes."""

    name: str
    shape: tuple[int, ...]
    parameters: int
    dtype: str
    size: int


@attrs.frozen(kw_only=True)
class File:
    """One file's size and the hashes that programs show for it."""

    name: str
    size: int
    sha256: str
    civitai_autov2: str
    civitai_autov3: str
    webui_shorthash: str
    body_sha256: str


@attrs.frozen(kw_only=True)
class Inspected:
    """`styles`: keys in each naming style; `unknown`: keys that are no adapter's; `metadata`: JSON values decoded."""

    path: str
    files: list[File]
    style: str
    styles: dict[str, int]
    family: str
    dtypes: dict[str, int]
    components: list[Component]
    modules: list[Module]
    whole: list[Whole]
    unknown: list[str]
    metadata: dict[str, Any]
    findings: list[Finding]


def inspected(adapter: Adapter, tell: Tell) -> Inspected:
    """Everything about an adapter that its file tells."""
    with torch.inference_mode():
        rows = {}
        for number, (at, update) in enumerate(adapter.updates.items()):
            tell(update.prefix, number / len(adapter.updates))
            rows[at] = _module(update)
    styles = Counter(key.style for name, _ in adapter.tensors() if (key := keys.split(name)))
    files = [
        _file(path, adapter.sha256 if len(adapter.files) == 1 else None, adapter) for path in adapter.files
    ]
    return Inspected(
        path=paths.display(adapter.path),
        files=files,
        style=adapter.style,
        styles=dict(styles.most_common()),
        family=title(adapter),
        dtypes=dict(Counter(dtype_name(tensor.dtype) for _, tensor in adapter.tensors()).most_common()),
        components=_components(adapter, rows),
        modules=list(rows.values()),
        whole=[_whole(name, tensor) for name, tensor in adapter.whole.items()],
        unknown=list(adapter.rest),
        metadata={key: _decoded(value) for key, value in sorted(adapter.metadata.items())},
        findings=list(findings.all_of(adapter, {at for at, row in rows.items() if row.frobenius == 0})),
    )


def title(adapter: Adapter) -> str:
    """The family that the names and sizes tell."""
    prefixes = [update.prefix for update in adapter.updates.values()]
    for name, signs in SIGNS:
        if any(sign in prefix for prefix in prefixes for sign in signs) and not _is_clip_only(adapter, name):
            return name
    widths = {
        update.down.shape[1]
        for update in adapter.updates.values()
        if update.down is not None and update.prefix.replace(".", "_").endswith("attn2_to_k")
    }
    if len(widths) == 1 and (width := widths.pop()) in CROSS_ATTENTION:
        return CROSS_ATTENTION[width]
    found = best(adapter)
    if found is None:
        return "unknown"
    share = "" if not found.unknown else f", {len(found.places)} of {len(adapter.updates)} names"
    return f"{found.names.family.TITLE} (by its names{share})"


def _is_clip_only(adapter: Adapter, name: str) -> bool:
    """CLIP's layers have the names of a language model's, too; SD's files have a component for it."""
    return name == "a language model" and any(
        u.component.startswith(("unet", "text_enc")) for u in adapter.updates.values()
    )


def _module(update: Update) -> Module:
    sigma = None if _broken(update) else _spectrum(update)
    return Module(
        component=update.component,
        name=update.prefix,
        kind=_kind(update),
        method=update.method,
        rank=update.rank,
        alpha=_finite(update.alpha),
        strength=_finite(update.strength),
        frobenius=None if sigma is None else sigma.square().sum().sqrt().item(),
        spectral=None if sigma is None else sigma.max().item(),
        needed_rank=None if sigma is None else rank_for(sigma, MOST_ENERGY),
    )


def _whole(name: str, tensor: Tensor) -> Whole:
    return Whole(
        name=name.removeprefix(keys.PEFT_PREFIX),
        shape=tuple(tensor.shape),
        parameters=tensor.numel(),
        dtype=dtype_name(tensor.dtype),
        size=tensor.nbytes,
    )


def _spectrum(update: Update) -> Tensor | None:
    """The change's singular values; None where the parts of a method other than LoRA do not multiply."""
    try:
        found = spectrum(update)
    except (RuntimeError, IndexError, KeyError):
        return None
    return found if found is not None and found.numel() else None


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _broken(update: Update) -> bool:
    """Whether its norms cannot be taken: parts that lack, do not multiply, or are not finite."""
    if any(not bool(tensor.float().isfinite().all()) for tensor in update.parts.values()):
        return True
    if update.method == "LoKr" and update.prefix.startswith(keys.PEFT_PREFIX):
        return True  # PEFT scales it by a rank that its tensors do not tell
    return update.method == "LoRA" and bool(findings.matrices(update))


def _kind(update: Update) -> str:
    if update.embedding:
        return "embedding"
    core = update.parts.get("mid", update.down)
    shape = () if core is None else tuple(core.shape)
    if len(shape) == 4:
        return f"convolution {shape[2]}×{shape[3]}"
    return "linear" if update.down is not None else "other"


def _components(adapter: Adapter, rows: Mapping[At, Module]) -> list[Component]:
    found = []
    for name, updates in adapter.components.items():
        own = [rows[at] for at in updates]
        measured = [row for row in own if row.frobenius is not None]
        top = max(measured, key=lambda row: row.spectral or 0.0, default=None)
        needed = sorted(row.needed_rank for row in measured if row.needed_rank is not None)
        squares = [row.frobenius**2 for row in measured if row.frobenius is not None]
        found.append(
            Component(
                name=name,
                modules=len(own),
                kinds=_counted(row.kind for row in own),
                methods=_counted(row.method for row in own),
                ranks=_counted(row.rank for row in own),
                alphas=_counted("none" if row.alpha is None else f"{row.alpha:g}" for row in own),
                strengths=_counted("none" if row.strength is None else f"{row.strength:.4g}" for row in own),
                parameters=sum(
                    t.numel() for u in updates.values() for p, t in u.parts.items() if p != "alpha"
                ),
                frobenius=math.sqrt(sum(squares)) if squares else None,
                spectral=top.spectral if top else None,
                strongest=top.name if top else "",
                needed_rank=(needed[len(needed) // 2], needed[-1]) if needed else None,
                unchanged=sum(row.frobenius == 0 for row in measured),
            )
        )
    return found


def _counted(values: Iterable[Any]) -> dict[str, int]:
    return {str(value): count for value, count in Counter(values).most_common()}


def _file(path: Any, known: str | None, adapter: Adapter) -> File:
    """Civitai's and WebUI's short hashes are the first digits (facts/outputs.md 2.3). WebUI and AutoV3 take the hash
    that the metadata states, unchecked; a checkpoint has no body, and WebUI takes the whole file's."""
    sha256 = known if known is not None and adapter.path.is_file() else digest.sha256_file(path)
    safe = path.suffix == ".safetensors"
    body = safetensors.body_sha256(path) if safe else sha256
    stated = safetensors.read_header(path).metadata.get("sshs_model_hash", body) if safe else body
    return File(
        name=path.name,
        size=path.stat().st_size,
        sha256=sha256,
        civitai_autov2=sha256[:10],
        civitai_autov3=stated[:12],
        webui_shorthash=stated[:12],
        body_sha256=body,
    )


def _decoded(value: str) -> Any:
    """A metadata value as the JSON that it is, where it is an object or a list."""
    if not value.startswith(("{", "[")):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
