"""What a base is, from its contents alone: its family, architecture and digest. Never from its file's name.

- A diffusers folder is read by its model_index.json; a single file by its tensors' names and shapes, no weights read.
- Nothing in a base is run: no remote code, no pickle (see `runtime.safeio.weights` for `.ckpt`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from runtime import plan
from runtime.errors import InputError, Problem
from runtime.families import FAMILIES, family, parts
from runtime.safeio import strict_json

if TYPE_CHECKING:
    from runtime.families.protocol import Family

RUNS_CODE = ("auto_map", "custom_pipeline", "_attn_implementation_internal", "trust_remote_code")
"""Keys by which a repository asks a library to run its own code (facts: CVE-2026-4372, CVE-2026-5241)."""

INDICES = ("model_index.json", "config.json")
"""What says of a folder how its model is laid out: diffusers', Transformers'."""
NAMED = 5
"""How many things that might be meant are named."""

Sha256 = Callable[[Path], str]


@attrs.frozen
class Found:
    """A base on disk: its lock, the name that people know it by, and what of it is elsewhere."""

    base: plan.Base
    name: str
    parts: parts.Files


def inspect(
    path: Path,
    sha256: Sha256,
    wanted: str = "auto",
    remote_code: bool = False,
    others: Sequence[Path] = (),
) -> Found:
    """Recognise and lock a base. `wanted` is the family the spec names, or "auto"; with `remote_code` a language model
    may bring Python files that loading it runs; `others` hold what a single file has not. Raises InputError."""
    found = recognised(path, sha256, wanted, remote_code, others)
    if found.base.layout == "single_file":
        parts.require(family(found.base.family), found.base.architecture, str(path))
    return found


def recognised(
    path: Path,
    sha256: Sha256,
    wanted: str = "auto",
    remote_code: bool = False,
    others: Sequence[Path] = (),
) -> Found:
    """As `inspect`, of a file with the backbone alone too, which is no base: its architecture then has no more."""
    if not path.exists():
        raise InputError(Problem(str(path), "there is no such base", "give a folder or one file"))
    layout = layout_of(path)
    elsewhere: parts.Files = {}
    if layout == "single_file":
        names, architecture, elsewhere = _single(path, others)
    elif others:
        what = "is a whole base, and base.parts names more files"
        raise InputError(
            Problem(str(path), what, "leave base.parts out, or give the transformer's file as the base")
        )
    else:
        names, architecture = READ[layout](path)
    runs_code = layout == "transformers" and _needs_code(architecture["model"])
    if runs_code and not remote_code:
        hint = "read its Python files, then set Base(trust_remote_code=True); or take a base that transformers knows"
        raise InputError(Problem(str(path), "asks to run code of its own (auto_map in config.json)", hint))
    digest = _digest(path, layout, sha256, names, elsewhere)
    if not names:
        known = ", ".join(family(name).TITLE for name in FAMILIES)
        raise InputError(Problem(str(path), "is of no family that lorac knows", f"lorac knows {known}"))
    name = names[0]
    if wanted not in ("auto", name):
        found = f"header says {name}, the spec says {wanted}"
        raise InputError(Problem(str(path), found, f'set Base(family="{name}") or give another base'))
    base = plan.Base(
        family=name,
        layout=layout,
        digest=digest,
        prediction_type=family(name).prediction_type(architecture),
        architecture=architecture,
        remote_code=runs_code,
    )
    return Found(base=base, name=path.stem if path.is_file() else path.name, parts=elsewhere)


def digest(path: Path, layout: str, sha256: Sha256, name: str, elsewhere: parts.Files) -> str:
    """The digest of a base's contents, as `inspect` gives it; `name` is its family. Raises InputError if it isn't
    there."""
    if not path.exists():
        raise InputError(Problem(str(path), "the base is not here", "give its place with --base"))
    hint = "plan where it is: lorac plan SPEC (the same files give the same plan, and a run goes on)"
    missing = [
        Problem(str(place), f"the base's {part} is not here", hint)
        for part, place in elsewhere.items()
        if not place.exists()
    ]
    if missing:
        raise InputError(missing)
    return _digest(path, layout, sha256, [name], elsewhere)


def layout_of(path: Path) -> plan.Layout:
    """How a base lies on the disk."""
    if path.is_file():
        with path.open("rb") as file:
            return "gguf" if file.read(4) == b"GGUF" else "single_file"
    is_transformers = (path / "config.json").is_file() and not (path / "model_index.json").is_file()
    return "transformers" if is_transformers else "diffusers"


def _gguf(path: Path) -> tuple[list[str], dict[str, Any]]:
    from runtime.families import gguf

    config = gguf.config(path)
    return [name for name in FAMILIES if family(name).recognise_config(config)], {"model": config}


def _transformers(path: Path) -> tuple[list[str], dict[str, Any]]:
    config = {
        key: value
        for key, value in _json(path / "config.json").items()
        if not key.startswith("_") and key not in ("transformers_version", "dtype", "torch_dtype")
    }
    names = [name for name in FAMILIES if family(name).recognise_config(config)]
    return names, {"model": config}


def _single(path: Path, others: Sequence[Path]) -> tuple[list[str], dict[str, Any], parts.Files]:
    shapes = parts.shapes_of(path)
    names = _names(path, lambda of: of.recognise(shapes))
    if not names:
        return names, {}, {}
    of = family(names[0])
    elsewhere = parts.assigned(of, others)
    try:
        architecture = of.architecture(parts.joined(of, shapes, elsewhere))
    except KeyError as missing:
        hint = f"this is not a whole {of.TITLE} file; download it again"
        raise InputError(Problem(str(path), f"has no tensor {missing.args[0]}", hint)) from None
    return names, architecture, elsewhere


def _folder(path: Path) -> tuple[list[str], dict[str, Any]]:
    if not (path / "model_index.json").is_file():
        raise InputError(Problem(str(path), "has neither a model_index.json nor a config.json", _in(path)))
    index = _json(path / "model_index.json")
    configs = {name: _config(path, name) for name in _components(index)}
    problems = [
        Problem(
            str(path), f"asks to run code of its own ({key} in {name})", "take a base without remote code"
        )
        for name, config in [("model_index.json", index), *configs.items()]
        for key in RUNS_CODE
        if config.get(key)
    ]
    if problems:
        raise InputError(problems)
    names = _names(path, lambda of: of.recognise_folder(index, configs))
    return names, {name: config for name, config in configs.items() if config}


def _in(path: Path) -> str:
    """What of a folder that is no model's could be meant."""
    models = sorted(str(one) for one in path.iterdir() if one.suffix in (".safetensors", ".ckpt", ".gguf"))
    subfolders = sorted(str(one.parent) for one in path.glob("*/*.json") if one.name in INDICES)
    found = [*models, *subfolders][:NAMED]
    return (
        f"give what is in it: {', '.join(found)}"
        if found
        else "give a folder of diffusers or Transformers, or one file"
    )


def _names(path: Path, recognises: Callable[[Family], bool]) -> list[str]:
    """The families that a base is of. Raises InputError for one that a family knows by sight and does not train."""
    try:
        return [name for name in FAMILIES if recognises(family(name))]
    except InputError as error:
        raise InputError([attrs.evolve(problem, where=str(path)) for problem in error.problems]) from None


def _components(index: dict[str, Any]) -> list[str]:
    return sorted(
        name
        for name, value in index.items()
        if isinstance(value, list)
        and value
        and value[0]
        and name not in ("safety_checker", "feature_extractor")
    )


def _config(path: Path, component: str) -> dict[str, Any]:
    """A component's config without what only says where or by which version it was written."""
    for name in ("config.json", "scheduler_config.json"):
        if (path / component / name).is_file():
            config = _json(path / component / name)
            return {k: v for k, v in config.items() if not k.startswith("_") and k != "transformers_version"}
    return {}


def _json(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise InputError(
            Problem(
                str(path),
                "cannot be read",
                "a diffusers folder has a model_index.json and a config per component",
            )
        ) from None
    data = strict_json.loads(text, str(path), error=InputError)
    if not isinstance(data, dict):
        raise InputError(Problem(str(path), "is not a JSON object", "download the base again"))
    return data


def _needs_code(config: dict[str, Any]) -> bool:
    """Whether transformers cannot load it without the base's own files: many name some that it has no need of."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    return "auto_map" in config and config.get("model_type") not in CONFIG_MAPPING_NAMES


READ: dict[str, Callable[[Path], tuple[list[str], dict[str, Any]]]] = {
    "diffusers": _folder,
    "transformers": _transformers,
    "gguf": _gguf,
}


def _digest(path: Path, layout: str, sha256: Sha256, names: list[str], elsewhere: parts.Files) -> str:
    """Over every file that loading may read: one file and what its family wants beside it, or a folder's."""
    if layout == "gguf":
        return sha256(path)
    own = ""
    if layout == "single_file":
        files = [one for name in names[:1] for one in parts.files(family(name), path, elsewhere)]
        if not files:
            return sha256(path)
        own = f"{sha256(path)}\n"
    else:
        found = _transformers_files(path) if layout == "transformers" else _diffusers_files(path)
        files = [(file.relative_to(path).as_posix(), file) for file in found]
    lines = own + "".join(f"{name} {sha256(file)}\n" for name, file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def _transformers_files(path: Path) -> list[Path]:
    """JSON, text, tokenizer and safetensors files; Python files too, for a base that brings code."""
    wanted = (".json", ".txt", ".model", ".safetensors", ".jinja", ".tiktoken", ".py")
    files = sorted(file for file in path.glob("*") if file.is_file() and file.suffix in wanted)
    if not any(file.suffix == ".safetensors" for file in files):
        raise InputError(
            Problem(str(path), "holds no .safetensors weights", "take the safetensors variant of this base")
        )
    return files


def _diffusers_files(path: Path) -> list[Path]:
    """The index, and each component's JSON, text and safetensors."""
    components = _components(_json(path / "model_index.json"))
    files = [path / "model_index.json"]
    for component in components:
        folder = sorted((path / component).glob("*"))
        files += [f for f in folder if f.suffix in (".json", ".txt", ".model", ".safetensors")]
        if not any(f.suffix == ".safetensors" for f in folder) and any(f.suffix == ".bin" for f in folder):
            raise InputError(
                Problem(str(path / component), "holds pickled weights only", "take the safetensors variant")
            )
    return files
