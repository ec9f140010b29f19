"""LoRA files and what was made of them as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorac.render import INDENT, table
from runtime.errors import visible
from runtime.human import size

if TYPE_CHECKING:
    from runtime.lora_files.extract import Extracted
    from runtime.lora_files.inspection import Component, File, Inspected, Module, Whole
    from runtime.lora_files.resize import Kept

COUNTS_SHOWN = 4
FINDINGS_KEYS = 2
TAGS_SHOWN = 12
LONGEST = 160
"""Characters of a metadata value that are shown."""


def inspected_text(of: Inspected, width: int) -> str:
    """What a file is, its components, hashes, metadata and findings."""
    styles = ", ".join(f"{style} ({count} keys)" for style, count in of.styles.items())
    parts = [
        [
            f"{of.path}  {size(sum(file.size for file in of.files))}",
            *table([("style", styles), ("family", of.family), ("dtypes", _counts(of.dtypes))], width),
        ],
        [
            "components",
            *table([COMPONENT_HEAD, *map(_component, of.components)], width),
            *map(_kinds, of.components),
        ],
        ["trained whole", *table([_whole(one) for one in of.whole], width)] if of.whole else [],
        *(
            ["hashes" + (f" of {file.name}" if len(of.files) > 1 else ""), *table(_hashes(file), width)]
            for file in of.files
        ),
        _metadata(of.metadata, width),
        _findings(of, width),
    ]
    return "\n\n".join("\n".join(map(visible, lines)) for lines in parts if lines)


def beside_text(source: Path, file: Path) -> Iterator[str]:
    """What else is in a folder of which a file was looked at: a run writes one for each way of loading."""
    others = sorted(path.name for path in source.glob("*.safetensors") if path != file)
    if source != file and others:
        yield visible(f"also in {source}: {', '.join(others)}")


def modules_text(of: Inspected) -> str:
    """Every module, the strongest first, each in one line, however long its name."""
    rows = [_module(one) for one in sorted(of.modules, key=lambda module: -(module.spectral or 0.0))]
    columns = list(zip(MODULE_HEAD, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    lines = (
        INDENT.join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True))
        for row in (MODULE_HEAD, *rows)
    )
    return "\n".join([f"{len(rows)} modules", *(visible(f"{INDENT}{line}".rstrip()) for line in lines)])


MODULE_HEAD = ("‖ΔW‖", "largest", "rank", "95 %", "strength", "kind", "module")
COMPONENT_HEAD = (
    "component",
    "modules",
    "rank",
    "alpha",
    "strength",
    "‖ΔW‖",
    "largest",
    "rank of 95 %",
)


def _component(of: Component) -> tuple[str, ...]:
    methods = "" if set(of.methods) == {"LoRA"} else f" ({_counts(of.methods)})"
    return (
        of.name,
        f"{of.modules}{methods}",
        _counts(of.ranks),
        _counts(of.alphas),
        _counts(of.strengths),
        _number(of.frobenius),
        _number(of.spectral),
        f"{of.needed_rank[0]}, at most {of.needed_rank[1]}" if of.needed_rank else "-",
    )


def _kinds(of: Component) -> str:
    """What a component's modules are, and which one is changed most."""
    strongest = f"; strongest: {of.strongest}" if of.strongest and of.spectral else ""
    return f"{INDENT}{of.name}: {_counts(of.kinds)}; {of.parameters:,} parameters{strongest}"


def _module(of: Module) -> tuple[str, ...]:
    needed = "-" if of.needed_rank is None else str(of.needed_rank)
    return (
        _number(of.frobenius),
        _number(of.spectral),
        str(of.rank),
        needed,
        _number(of.strength),
        of.kind,
        of.name,
    )


def _whole(of: Whole) -> tuple[str, ...]:
    shape = " × ".join(map(str, of.shape))
    return (of.name, shape, f"{of.parameters:,} parameters", of.dtype, size(of.size))


def _hashes(file: File) -> list[tuple[str, str]]:
    rows = [
        ("sha256", file.sha256),
        ("Civitai AutoV2", file.civitai_autov2),
        ("Civitai AutoV3", file.civitai_autov3),
        ("WebUI", file.webui_shorthash),
    ]
    return rows


METADATA = (
    ("name", "ss_output_name"),
    ("title", "modelspec.title"),
    ("author", "modelspec.author"),
    ("license", "modelspec.license"),
    ("architecture", "modelspec.architecture"),
    ("base", "ss_sd_model_name"),
    ("base version", "ss_base_model_version"),
    ("trigger words", "modelspec.trigger_phrase"),
    ("network", "ss_network_module"),
    ("rank, alpha", "ss_network_dim", "ss_network_alpha"),
    ("steps, epochs", "ss_steps", "ss_num_epochs"),
    ("learning rate", "ss_learning_rate", "ss_lr_scheduler"),
    ("optimizer", "ss_optimizer"),
    ("batch", "ss_total_batch_size"),
    ("resolution", "ss_resolution"),
    ("pictures", "ss_num_train_images"),
    ("seed", "ss_seed"),
)
"""What is shown of kohya's and ModelSpec's metadata, by the words that people use."""


def _metadata(metadata: Mapping[str, Any], width: int) -> list[str]:
    rows = []
    shown = set()
    for label, *names in METADATA:
        values = [_short(metadata[name]) for name in names if metadata.get(name) not in (None, "", "None")]
        if values:
            rows.append((label, ", ".join(values)))
            shown |= set(names)
    tags = _tags(metadata.get("ss_tag_frequency"))
    if tags:
        rows.append(("tags", tags))
        shown.add("ss_tag_frequency")
    for name, value in metadata.items():
        if name.startswith("lorac."):
            rows.append((name, _short(value)))
            shown.add(name)
    if not metadata:
        return ["no metadata"]
    rest = len(metadata) - len(shown & metadata.keys())
    return ["metadata", *table(rows, width), *([f"{INDENT}and {rest} more, with --json"] if rest else [])]


def _tags(value: Any) -> str:
    """The commonest of `ss_tag_frequency`, {folder: {tag: count}}."""
    if not isinstance(value, dict):
        return ""
    counts: dict[str, int] = {}
    for folder in value.values():
        if isinstance(folder, dict):
            for tag, count in folder.items():
                if isinstance(count, int):
                    counts[tag.strip()] = counts.get(tag.strip(), 0) + count
    top = sorted(counts, key=lambda tag: -counts[tag])[:TAGS_SHOWN]
    return ", ".join(f"{tag} {counts[tag]}" for tag in top)


def _findings(of: Inspected, width: int) -> list[str]:
    if not of.findings:
        return ["nothing suspicious"]
    rows = []
    for one in sorted(of.findings, key=lambda finding: finding.level != "wrong"):
        some = ", ".join(one.keys[:FINDINGS_KEYS])
        more = len(one.keys) - FINDINGS_KEYS
        rows.append(
            (one.level, one.what + (f": {some}" if some else "") + (f" and {more} more" if more > 0 else ""))
        )
    return ["findings", *table(rows, width)]


def kept_text(kept: Sequence[Kept]) -> list[str]:
    """What each component keeps of its change, and which module the least."""
    return [
        f"{one.component}: {_percent(one.energy)} of the change's energy kept in {one.modules} modules, rank"
        f" {_span(one.ranks)}; least, {_percent(one.worst_energy)}, in {one.worst}"
        for one in kept
    ]


def extracted_text(found: Extracted) -> list[str]:
    """What an extraction keeps, and what it cannot hold."""
    others = [
        f"{component}: {count} other weights differ (norms, biases, embeddings): a LoRA cannot hold them"
        for component, count in found.other.items()
    ]
    return [
        *kept_text(found.kept),
        *others,
        "the picture decoder (VAE) was not looked at: no LoRA changes it",
    ]


def _percent(share: float) -> str:
    """Never rounded up to 100 %."""
    shown = f"{100 * share:.2f}"
    return "100 %" if share >= 1 - 1e-9 else f"{min(float(shown), 99.99):.2f} %"


def _span(ranks: tuple[int, int]) -> str:
    return str(ranks[0]) if ranks[0] == ranks[1] else f"{ranks[0]} to {ranks[1]}"


def _counts(counted: Mapping[str, int]) -> str:
    """A single value by itself, several with how often each is."""
    if len(counted) == 1:
        return next(iter(counted))
    some = [f"{value} ×{count}" for value, count in list(counted.items())[:COUNTS_SHOWN]]
    more = len(counted) - COUNTS_SHOWN
    return ", ".join(some) + (f" and {more} others" if more > 0 else "")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
