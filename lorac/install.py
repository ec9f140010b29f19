"""Put a finished LoRA where Stable Diffusion WebUI or ComfyUI looks for it, and say how to call it.

- The manifest decides what is copied: only files that are as it says, only where the consumer takes them.
- Nothing is copied before everything has been looked at, and no other file is ever replaced unless the user
  says so.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from runtime.errors import InputError, Problem, SpecError
from runtime.safeio import atomic, digest, paths, strict_json

MANIFEST = ".lorac.json"
WEBUI = "models/Lora"
ADDITIONAL_NETWORKS = "extensions/sd-webui-additional-networks/models/lora"
COMFYUI = "models/loras"
WORDS, COMFYUI_WORDS = "embeddings", "models/embeddings"
"""Where words with vectors of their own go."""

ROLES = {
    WEBUI: ("webui", "sidecar", "preview"),
    ADDITIONAL_NETWORKS: ("webui",),
    COMFYUI: ("webui", "preview"),
    WORDS: ("embedding",),
    COMFYUI_WORDS: ("embedding",),
}
"""What each folder gets: ComfyUI reads no sidecar, additional-networks no picture beside a file."""

LANGUAGE = "peft"
"""The role of a language model's files in the manifest."""

LORA_FILES = {".safetensors", ".pt", ".ckpt"}
"""What WebUI takes for a LoRA (networks.py, 1.10.1); of two with one stem, it knows only one."""
WORD_FILES = {".safetensors", ".pt", ".bin"}
"""And for a word (textual_inversion.py, 1.10.1)."""

RUN_AGAIN = "run the plan again: it makes what is missing"


@attrs.frozen(kw_only=True)
class Receipt:
    """What of a manifest is needed here. `files`: role -> (name, sha256) of each."""

    folder: Path
    name: str
    files: dict[str, list[tuple[str, str]]]
    verdicts: tuple[Mapping[str, str], ...]


@attrs.frozen(kw_only=True)
class Installed:
    """Files put into one folder (`kept`: those that were there already), how to call the LoRA, what to
    know."""

    folder: Path
    copied: tuple[str, ...]
    kept: tuple[str, ...]
    call: str
    warnings: tuple[str, ...]


def install(
    run_folder: Path, webui: Path | None = None, comfyui: Path | None = None, force: bool = False
) -> list[Installed]:
    """Copy the LoRA in `run_folder` into these programs' folders, atomically, the LoRA's own file last.

    Raises InputError for a folder without a whole LoRA or one that the program would refuse, SpecError for
    a language model's LoRA, for a folder that is not the program's and, without `force`, for other files that
    would be replaced, MachineError for a fault of the disk.
    """
    receipt = read_receipt(run_folder)
    if webui is None and comfyui is None:
        hint = "lorac install NAME --webui DIR, or --comfyui DIR"
        raise SpecError(Problem("", "nothing says where to install it", hint))
    has_words = "embedding" in receipt.files
    targets = []
    for given, find, words in ((webui, webui_folder, WORDS), (comfyui, comfyui_folder, COMFYUI_WORDS)):
        if given is not None:
            targets += [find(given), *[(given, words)] * has_words]
    _check_taken(receipt, targets)
    if not force:
        _check_free(receipt, targets)
    return [_copy(receipt, root / inner, inner) for root, inner in targets]


def read_receipt(run_folder: Path) -> Receipt:
    """The manifest in a run's folder, its files checked against it. Raises InputError."""
    where = paths.display(run_folder)
    found = sorted(run_folder.glob(f"*{MANIFEST}"))
    if len(found) != 1:
        what = f"holds {len(found)} finished LoRAs, expected one" if found else "holds no finished LoRA"
        raise InputError(Problem(where, what, "give the folder of a finished run, such as output/NAME"))
    data: Any = strict_json.read(found[0])
    try:
        receipt = Receipt(
            folder=run_folder,
            name=data["name"],
            files=_by_role(data["files"]),
            verdicts=tuple(data["consumers"]),
        )
        wanted = {receipt.name, *(name for files in receipt.files.values() for name, _ in files)}
        wanted |= {
            verdict[key] for verdict in receipt.verdicts for key in ("folder", "loads", "reason", "call")
        }
    except (KeyError, TypeError):
        raise InputError(Problem(paths.display(found[0]), "is not a manifest of lorac", RUN_AGAIN)) from None
    is_whole = all(isinstance(text, str) for text in wanted) and all(
        _is_in_place(role, name) for role, files in receipt.files.items() for name, _ in files
    )
    if is_whole and LANGUAGE in receipt.files:
        calls = [verdict["call"] for verdict in receipt.verdicts if verdict["loads"] == "loads"]
        what = "is a language model's LoRA, which is used from where it is"
        raise SpecError(Problem(where, what, "; or ".join(calls)))
    if not is_whole or "webui" not in receipt.files:
        raise InputError(Problem(paths.display(found[0]), "is not a manifest of lorac", RUN_AGAIN))
    _check_whole(receipt)
    return receipt


def _by_role(files: list[dict[str, str]]) -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for file in files:
        found.setdefault(file["role"], []).append((file["name"], file["sha256"]))
    return found


def _is_in_place(role: str, name: str) -> bool:
    """Whether a run writes files of this role there: words into a folder of theirs, all else beside the manifest."""
    folder, _, file = name.rpartition("/")
    return folder == (WORDS if role == "embedding" else "") and file not in ("", ".", "..")


def webui_folder(root: Path) -> tuple[Path, str]:
    """A WebUI's own folder and where in it LoRAs go: additional-networks', if nothing else there loads
    them."""
    _check_is(root, "Stable Diffusion WebUI", "launch.py", "modules")
    builtin = (root / "extensions-builtin" / "Lora").is_dir() or (root / WEBUI).is_dir()
    extension = (root / ADDITIONAL_NETWORKS).parents[1].is_dir()
    return root, ADDITIONAL_NETWORKS if extension and not builtin else WEBUI


def comfyui_folder(root: Path) -> tuple[Path, str]:
    """ComfyUI's own folder and where in it LoRAs go."""
    _check_is(root, "ComfyUI", "main.py", "comfy")
    return root, COMFYUI


def _check_is(root: Path, program: str, file: str, folder: str) -> None:
    def fits(path: Path) -> bool:
        return (path / file).is_file() and (path / folder).is_dir()

    where = paths.display(root)
    if not root.is_dir():
        raise SpecError(Problem(where, "is not a folder", f"give the folder of {program}"))
    if not fits(root):
        inner = next((path for path in sorted(root.iterdir()) if path.is_dir() and fits(path)), None)
        hint = f"did you mean {paths.display(inner)}?" if inner else f"give the folder that holds {file}"
        raise SpecError(Problem(where, f"is not {program}: it has no {file} with {folder}/ beside it", hint))


def _check_whole(receipt: Receipt) -> None:
    problems = []
    for name, sha256 in (one for files in receipt.files.values() for one in files):
        path = paths.inside(receipt.folder, name, where=paths.display(receipt.folder))
        if not path.is_file():
            problems.append(Problem(paths.display(path), "is missing", RUN_AGAIN))
        elif digest.sha256_file(path) != sha256:
            problems.append(Problem(paths.display(path), "changed since it was made", RUN_AGAIN))
    if problems:
        raise InputError(problems)


def _check_taken(receipt: Receipt, targets: list[tuple[Path, str]]) -> None:
    """Refuse what the program itself would refuse."""
    problems = [
        Problem(receipt.name, f"{verdict['consumer']} would not load it: {verdict['reason']}")
        for _, inner in targets
        for verdict in receipt.verdicts
        if verdict["folder"] == inner and verdict["loads"] == "refuses"
    ]
    if problems:
        raise InputError(problems)


def _check_free(receipt: Receipt, targets: list[tuple[Path, str]]) -> None:
    """Refuse to replace a file that is another one."""
    problems = []
    for root, inner in targets:
        for name, sha256 in _files(receipt, inner):
            path = root / inner / Path(name).name
            if path.exists() and (path.is_dir() or digest.sha256_file(path) != sha256):
                what = "is there already and is another file"
                problems.append(Problem(paths.display(path), what, "replace it with --force"))
    if problems:
        raise SpecError(problems)


def _files(receipt: Receipt, inner: str) -> list[tuple[str, str]]:
    """(name, sha256) of what this folder gets, the LoRA itself last."""
    found = [one for role in ROLES[inner] for one in receipt.files.get(role, [])]
    return found[1:] + found[:1]


def _copy(receipt: Receipt, folder: Path, inner: str) -> Installed:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = f"cannot be made: {error.strerror}"
        raise SpecError(Problem(paths.display(folder), what, "check who owns the folder above it")) from error
    copied, kept = [], []
    for name, sha256 in _files(receipt, inner):
        target = folder / Path(name).name
        if target.is_file() and digest.sha256_file(target) == sha256:
            kept.append(target.name)
            continue
        source = receipt.folder / name
        with paths.open_file(source) as old, atomic.writing(target, source.stat().st_size) as new:
            shutil.copyfileobj(old, new, 1 << 20)
        copied.append(target.name)
    calls = [verdict["call"] for verdict in receipt.verdicts if verdict["folder"] == inner]
    return Installed(
        folder=folder,
        copied=tuple(copied),
        kept=tuple(kept),
        call="; ".join(dict.fromkeys(calls)) or f"choose {receipt.name}",
        warnings=tuple(_warnings(receipt, folder, inner)),
    )


def _warnings(receipt: Receipt, folder: Path, inner: str) -> Iterator[str]:
    for verdict in receipt.verdicts:
        if verdict["folder"] == inner and verdict["loads"] == "partial":
            yield f"{verdict['consumer']} loads a part of it: {verdict['reason']}"
    if inner in (COMFYUI, COMFYUI_WORDS):  # it calls a file by its path, so that equal stems do no harm
        return
    role, what, endings = (
        ("embedding", "word", WORD_FILES) if inner == WORDS else ("webui", "LoRA", LORA_FILES)
    )
    ours = [folder / Path(name).name for name, _ in receipt.files[role]]
    for path in sorted(folder.rglob("*")):
        is_one = path.suffix.lower() in endings and path.stem in {one.stem for one in ours}
        if is_one and path not in ours:
            yield (
                f"{paths.display(path)} has the same name: WebUI knows only one {what} of a name, the one that"
                " it finds last; rename one of the two"
            )
