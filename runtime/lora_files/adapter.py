"""An adapter read from its file or folder: each module's tensors by part, its alpha, and what the file says of itself.

- kohya's files hold alpha as a tensor beside each module. diffusers' hold it in their metadata
  (`lora_adapter_metadata`), PEFT's in adapter_config.json: one configuration for each component.
- `alpha` here is kohya's: the change of a weight is alpha / rank · B @ A. PEFT's rsLoRA (alpha / √rank; Kalajdzievski
  2023) is told in it.
- A whole file is held in memory, as it was saved.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
from torch import Tensor

from runtime.errors import InputError, Problem
from runtime.export.manifest import SUFFIX
from runtime.lora_files import keys
from runtime.lora_files.keys import Method, Style
from runtime.safeio import digest, paths, strict_json, weights
from runtime.safeio.tensors import TORCH_NAMES, dtype_name

PEFT_CONFIG = "adapter_config.json"
PEFT_FILES = ("adapter_model.safetensors", "adapter_model.bin")
DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
IN_DIFFUSERS = "lora_adapter_metadata"
"""The metadata that diffusers 0.42 writes and reads (`loaders/lora_base.py`): JSON, PEFT's
configuration with `COMPONENT.` before each name."""

CARRIED_CONFIGS = "lorac.adapter_config"
"""In files of kohya's style: the PEFT configurations that a file was converted from, JSON, component -> config."""

ALPHA_FORM = "lorac.alpha_form"
"""In files without alpha tensors: how the ones they were converted from looked, JSON, COMPONENT.MODULE -> "F16[]";
"*" stands for all others, "none" for a module without one."""

PLAIN = re.compile(r"[\w.-]+")
RUNS_AWAY = re.compile(r"\)[*+{?]")
"""A repeated group: such an expression can take for ever, and no trainer writes one."""

AlphaForm = tuple[str, tuple[int, ...]]
"""An alpha tensor's dtype and shape."""

Config = Mapping[str, Any]
At = tuple[str, str]
"""(component, prefix in the file): what one module of an adapter is known by."""


@attrs.frozen(eq=False, kw_only=True)
class Update:
    """What a file changes in one module. `parts`: tensors by `keys.SUFFIXES`' names; `names`: their keys in the file.

    LoRA: down (rank, in) or (rank, in, k, k), up (out, rank) or (out, rank, 1, 1). `alpha` is None where nothing
    says it, which all consumers take as alpha = rank.
    """

    component: str
    prefix: str
    parts: Mapping[str, Tensor]
    names: Mapping[str, str]
    alpha: float | None = None

    @property
    def method(self) -> Method:
        return keys.method(set(self.parts))

    @property
    def embedding(self) -> bool:
        return "embedding_down" in self.parts

    @property
    def down(self) -> Tensor | None:
        return self.parts.get("embedding_down", self.parts.get("down"))

    @property
    def up(self) -> Tensor | None:
        return self.parts.get("embedding_up", self.parts.get("up"))

    @property
    def rank(self) -> int:
        """The inner dimension; of a LoKr without factors 0."""
        if self.down is not None:
            return self.down.shape[0]
        factored = [self.parts[p] for p in ("hada_w1_b", "lokr_w2_b", "lokr_w1_b") if p in self.parts]
        return factored[0].shape[0] if factored else 0

    @property
    def strength(self) -> float:
        """What multiplies the product: alpha / rank. A1111's own `scale` goes before it."""
        if "scale" in self.parts:
            return self.parts["scale"].double().item() if self.parts["scale"].numel() == 1 else math.nan
        return 1.0 if self.alpha is None or not self.rank else self.alpha / self.rank

    @property
    def alpha_form(self) -> AlphaForm | None:
        stored = self.parts.get("alpha")
        return None if stored is None else (dtype_name(stored.dtype), tuple(stored.shape))


@attrs.frozen(eq=False, kw_only=True)
class Adapter:
    """`whole`: weights trained whole beside the updates, PEFT's `modules_to_save`; `rest`: tensors whose keys, or
    shapes, are no adapter's; `configs`: PEFT's configuration of each component, where there is one. `sha256` is the
    file's, or over the files of a folder."""

    path: Path
    files: tuple[Path, ...]
    sha256: str
    style: Style
    updates: Mapping[At, Update]
    whole: Mapping[str, Tensor] = attrs.field(factory=dict)
    rest: Mapping[str, Tensor] = attrs.field(factory=dict)
    metadata: Mapping[str, str] = attrs.field(factory=dict)
    configs: Mapping[str, Config] = attrs.field(factory=dict)

    @property
    def components(self) -> dict[str, dict[At, Update]]:
        """The updates by component, in the order of the file."""
        found: dict[str, dict[At, Update]] = {}
        for at, update in self.updates.items():
            found.setdefault(update.component, {})[at] = update
        return found

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor with its key."""
        for update in self.updates.values():
            yield from ((update.names[part], tensor) for part, tensor in update.parts.items())
        yield from self.whole.items()
        yield from self.rest.items()


def read(path: Path) -> Adapter:
    """The adapter in a file (safetensors, or a checkpoint, of which nothing is run), a PEFT folder, a folder with a
    PEFT folder for each component, a run's folder, whose LoRA for all programs is taken, or one with diffusers' file.
    Raises InputError."""
    sources = _sources(path)
    if len(sources) == 1 and sources[0][1].name not in PEFT_FILES:
        path = sources[0][1]
    tensors: dict[str, dict[str, Tensor]] = {}
    metadata: dict[str, str] = {}
    configs: dict[str, Config] = {}
    for component, file in sources:
        tensors[component], found = _load(file)
        metadata |= found
        config = file.with_name(PEFT_CONFIG)
        if file.name in PEFT_FILES and config.is_file():
            configs[component] = _checked(strict_json.read(config), paths.display(config))
    updates, rest, styles = _grouped(tensors)
    if not updates:
        raise InputError(Problem(paths.display(path), "has no tensor of an adapter's shape", "give a LoRA"))
    style = Counter(styles).most_common(1)[0][0]
    if IN_DIFFUSERS in metadata:
        configs = _unpacked(metadata[IN_DIFFUSERS], path)
    elif CARRIED_CONFIGS in metadata and style == "kohya":
        shown = f"{paths.display(path)}: {CARRIED_CONFIGS}"
        carried = _object(strict_json.loads(metadata[CARRIED_CONFIGS], shown), shown)
        configs = {component: _checked(config, shown) for component, config in carried.items()}
    digests = digest.sha256_files(file for _, file in sources)
    return Adapter(
        path=path,
        files=tuple(digests),
        sha256=next(iter(digests.values())) if path.is_file() else _over(path, digests),
        style=style,
        updates={
            at: attrs.evolve(update, alpha=_alpha(update, configs, style)) for at, update in updates.items()
        },
        whole={name: tensor for name, tensor in rest.items() if keys.is_whole(name)},
        rest={name: tensor for name, tensor in rest.items() if not keys.is_whole(name)},
        metadata=metadata,
        configs=configs,
    )


def alpha_by(config: Config, module: str, rank: int) -> float | None:
    """Kohya's alpha of a module of this rank by PEFT's configuration, as PEFT looks it up: patterns first."""
    alpha = by_pattern(
        config.get("alpha_pattern") or {}, module, config.get("lora_alpha", config.get("alpha"))
    )
    if alpha is None:
        return None
    return float(alpha) * math.sqrt(rank) if config.get("use_rslora") else float(alpha)


def by_pattern(patterns: Mapping[str, Any], module: str, otherwise: Any) -> Any:
    """The value of the first pattern that a module's path ends in, as `peft.utils.other.get_pattern_key` finds it.

    Plain paths are compared as text: files of a thousand modules have a pattern for each.
    """
    for pattern, value in patterns.items():
        if PLAIN.fullmatch(pattern):
            found = module == pattern or module.endswith(f".{pattern}")
        else:
            found = re.match(rf"(.*\.)?({pattern})$", module) is not None
        if found:
            return value
    return otherwise


def module_of(update: Update) -> str:
    """The path by which PEFT's configuration knows a module of diffusers' or PEFT's style."""
    if update.prefix.startswith(keys.PEFT_PREFIX):
        return update.prefix.removeprefix(keys.PEFT_PREFIX)
    return update.prefix.partition(".")[2]


def alpha_forms(adapter: Adapter) -> dict[str, AlphaForm | None]:
    """What `ALPHA_FORM` holds: COMPONENT.MODULE or "*" -> form, None for a module without alpha."""
    if ALPHA_FORM not in adapter.metadata:
        return {}
    shown = f"{paths.display(adapter.path)}: {ALPHA_FORM}"
    found: dict[str, AlphaForm | None] = {}
    for name, text in _object(strict_json.loads(adapter.metadata[ALPHA_FORM], shown), shown).items():
        dtype, bracket, shape = str(text).partition("[")
        if text == "none":
            found[name] = None
        elif dtype in TORCH_NAMES and bracket and shape in ("]", "1]"):
            found[name] = (dtype, (1,) if shape == "1]" else ())
        else:
            raise InputError(Problem(shown, f"has {text!r} for {name}, not a dtype and shape such as F16[]"))
    return found


# ---------------------------------------------------------------------------------------------------------- reading


def _sources(path: Path) -> list[tuple[str, Path]]:
    """(component, file) of every file that the adapter consists of."""
    if not path.is_dir():
        return [(keys.WHOLE, path)]
    if own := _peft_file(path):
        return [(keys.WHOLE, own)]
    parts = [(f.name, file) for f in sorted(path.iterdir()) if f.is_dir() and (file := _peft_file(f))]
    if parts:
        return parts
    runs = [file.name.removesuffix(SUFFIX) for file in path.glob(f"*{SUFFIX}")]
    if len(runs) == 1 and (given := path / f"{runs[0]}.safetensors").is_file():
        return [(keys.WHOLE, given)]
    if (path / DIFFUSERS_FILE).is_file():
        return [(keys.WHOLE, path / DIFFUSERS_FILE)]
    found = sorted(path.glob("*.safetensors"))
    if len(found) == 1:
        return [(keys.WHOLE, found[0])]
    what = f"holds {len(found)} safetensors files and no {PEFT_CONFIG} or {DIFFUSERS_FILE}"
    raise InputError(Problem(paths.display(path), what, "give the LoRA's own file"))


def _peft_file(folder: Path) -> Path | None:
    return next(
        (folder / n for n in PEFT_FILES if (folder / PEFT_CONFIG).is_file() and (folder / n).is_file()), None
    )


def _load(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with weights.open_weights(file) as opened:
        if not any((key := keys.split(name)) and key.part != "scale" for name in opened):
            what = "has no key that an adapter's keys end in" if len(opened) else "holds no tensors"
            raise InputError(
                Problem(paths.display(file), what, "give a LoRA; a whole model goes to --base or extract")
            )
        return {name: opened.load(name) for name in opened}, dict(opened.metadata)


def _grouped(
    tensors: Mapping[str, Mapping[str, Tensor]],
) -> tuple[dict[At, Update], dict[str, Tensor], list[Style]]:
    """The updates by place, the tensors that belong to none, and the style of each key."""
    parts: dict[At, dict[str, Tensor]] = {}
    names: dict[At, dict[str, str]] = {}
    rest: dict[str, Tensor] = {}
    styles: list[Style] = []
    for component, file in tensors.items():
        for name, tensor in file.items():
            key = keys.split(name)
            if key is None or (keys.is_matrix(key.part) and tensor.ndim < 2):
                rest[name] = tensor
                continue
            at = (component if key.component == keys.WHOLE else key.component, key.prefix)
            if key.part in parts.get(at, {}):
                rest[name] = tensor
                continue
            parts.setdefault(at, {})[key.part] = tensor
            names.setdefault(at, {})[key.part] = name
            styles.append(key.style)
    updates = {
        at: Update(component=at[0], prefix=at[1], parts=found, names=names[at]) for at, found in parts.items()
    }
    return updates, rest, styles


def _alpha(update: Update, configs: Mapping[str, Config], style: Style) -> float | None:
    stored = update.parts.get("alpha")
    if stored is not None:
        return stored.double().item() if stored.numel() == 1 else None
    if style == "kohya" or update.component not in configs:
        return None
    return alpha_by(configs[update.component], module_of(update), update.rank)


def _checked(config: Any, where: str) -> Config:
    """A configuration whose rank, alpha and patterns are numbers and expressions that end. Raises InputError."""
    found = _object(config, where)
    numbers = {name: found[name] for name in ("r", "lora_alpha", "alpha") if found.get(name) is not None}
    for name in ("rank_pattern", "alpha_pattern"):
        for pattern, value in _object(found.get(name) or {}, f"{where}: {name}").items():
            numbers[f"{name} {pattern}"] = value
            if RUNS_AWAY.search(pattern) or not _compiles(pattern):
                raise InputError(Problem(where, f"has a {name} that is not looked for: {pattern[:60]!r}"))
    wrong = [
        name for name, value in numbers.items() if type(value) not in (int, float) or not math.isfinite(value)
    ]
    if wrong:
        raise InputError([Problem(where, f"{name[:80]} is not a number") for name in wrong])
    return found


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def _unpacked(text: str, path: Path) -> dict[str, Config]:
    shown = f"{paths.display(path)}: {IN_DIFFUSERS}"
    found: dict[str, dict[str, Any]] = {}
    for name, value in _object(strict_json.loads(text, shown), shown).items():
        component, _, field = name.partition(".")
        found.setdefault(component, {})[field] = value
    return {component: _checked(config, f"{shown}: {component}") for component, config in found.items()}


def packed(configs: Mapping[str, Config]) -> str:
    """`lora_adapter_metadata` of these configurations, in the form that diffusers gives it (`lora_base.py`)."""
    flat = {f"{component}.{name}": value for component, of in configs.items() for name, value in of.items()}
    return json.dumps(flat, indent=2, sort_keys=True)


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(Problem(where, "is not a JSON object"))
    return value


def _over(folder: Path, digests: Mapping[Path, str]) -> str:
    lines = "".join(f"{file.relative_to(folder).as_posix()} {of}\n" for file, of in digests.items())
    return hashlib.sha256(lines.encode()).hexdigest()
