"""What a run's folder holds, finished or not, as data for a page. Nothing is loaded, run or computed anew."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import attrs
from PIL import Image

from runtime import plan
from runtime.errors import InputError, LoracError, Problem
from runtime.export import manifest as manifests
from runtime.export.manifest import SUFFIX, Manifest
from runtime.safeio import images, paths, strict_json

THUMBNAIL = 160
"""Pixels of a thumbnail's longer side."""
SHOWN_PICTURES, SHOWN_TEXTS = 60, 12
"""Samples of the data set that are shown."""
FAILED = (LoracError, OSError, ValueError)
"""What reading one file of a run may end in: the rest of the page is shown all the same."""


@attrs.frozen
class Point:
    """A measured value at a step; `low` and `high` bound it where that is known."""

    step: int
    value: float
    low: float | None = None
    high: float | None = None


@attrs.frozen
class Picture:
    """A picture as a data URI, its words, and its whole size."""

    uri: str
    words: str
    width: int
    height: int


@attrs.frozen
class Row:
    """Pictures made at one time: a step's samples, or the last ones."""

    title: str
    pictures: tuple[Picture, ...]


@attrs.frozen
class Answer:
    """What a language model says to a prompt, without the LoRA and with it."""

    when: str
    prompt: str
    base: str
    adapted: str


@attrs.frozen(kw_only=True)
class Run:
    """A run's folder. `manifest` is None until it has ended; `evaluation` and `advice` are JSON data or None.

    Pictures are read when they are first asked for: who wants figures waits for none.
    """

    folder: Path
    name: str
    plan: plan.Plan
    manifest: Manifest | None
    metrics: dict[str, tuple[Point, ...]]
    answers: tuple[Answer, ...]
    evaluation: dict[str, Any] | None
    advice: Any
    timeline: str

    @property
    def step(self) -> int:
        """The last step that was written down."""
        return max((points[-1].step for points in self.metrics.values() if points), default=0)

    @cached_property
    def samples(self) -> tuple[Row, ...]:
        """Samples by step, the last ones at the end."""
        return _samples(self.folder / "samples", self.plan)

    @cached_property
    def sheet(self) -> Picture | None:
        """The contact sheet."""
        return _picture(self.folder / "sheet.png", "contact sheet", 2000)

    @cached_property
    def grid(self) -> Picture | None:
        """What `lorac eval` drew."""
        return _picture(self.folder / "grid.png", "checkpoints by weights", 2000)

    @cached_property
    def data(self) -> tuple[Picture, ...]:
        """Pictures of the data set, evenly spread, where it is still here."""
        return _data(self.plan)


def gather(folder: Path) -> Run:
    """Read a run's folder. Raises InputError where it is none."""
    if not (folder / "plan.json").is_file():
        hint = "give a run's name in output/, or its folder"
        raise InputError(Problem(paths.display(folder), "is no run: it holds no plan.json", hint))
    of = plan.read(folder / "plan.json")
    manifest = next(iter(sorted(folder.glob(f"*{SUFFIX}"))), None)
    return Run(
        folder=folder,
        name=of.outputs.name,
        plan=of,
        manifest=_manifest(manifest) if manifest else None,
        metrics=metrics(_log_folder(folder, of) / "metrics.jsonl"),
        answers=_answers(folder / "samples"),
        evaluation=_json(folder / "evaluation.json"),
        advice=_json(folder / "advice.json"),
        timeline=_svg(folder / "memory.svg"),
    )


def metrics(path: Path) -> dict[str, tuple[Point, ...]]:
    """metrics.jsonl by name; a half-written last line is left out, a step written again counts once, the later one."""
    found: dict[str, dict[int, Point]] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return {}
    for line in lines:
        try:
            values = json.loads(line)
            step = int(values.pop("step"))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        for name, value in values.items():
            if type(value) in (int, float) and math.isfinite(value):
                found.setdefault(name, {})[step] = Point(step, float(value))
    return _bounded({name: tuple(points[step] for step in sorted(points)) for name, points in found.items()})


def _bounded(found: dict[str, tuple[Point, ...]]) -> dict[str, tuple[Point, ...]]:
    """The held-out loss with its interval, which the run writes beside it."""
    low, high = ({p.step: p.value for p in found.pop(f"held_out/{end}", ())} for end in ("low", "high"))
    if "held_out/loss" in found:
        points = found["held_out/loss"]
        found["held_out/loss"] = tuple(
            Point(p.step, p.value, low.get(p.step), high.get(p.step)) for p in points
        )
    return found


def thumbnail(picture: Image.Image, words: str, side: int = THUMBNAIL) -> Picture:
    """The picture no larger than `side`, as a data URI."""
    small = picture.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, format="PNG" if max(small.size) <= 128 else "JPEG", quality=88, optimize=True)
    kind = "png" if max(small.size) <= 128 else "jpeg"
    uri = f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
    return Picture(uri, words, picture.width, picture.height)


# ------------------------------------------------------------------------------------------------------ one file each


def _log_folder(folder: Path, of: plan.Plan) -> Path:
    """Where the metrics are: in the run's own folder, or where the plan says."""
    return folder / "logs" if (folder / "logs").is_dir() else Path(of.outputs.places.log)


def _manifest(path: Path) -> Manifest | None:
    try:
        return manifests.read(path)
    except FAILED:
        return None


def _json(path: Path) -> Any:
    try:
        return strict_json.read(path) if path.is_file() else None
    except FAILED:
        return None


def _picture(path: Path, words: str, side: int = THUMBNAIL) -> Picture | None:
    if not path.is_file():
        return None
    try:
        return thumbnail(images.open_picture(path), words, side)
    except FAILED:
        return None


def _pictures(files: Iterable[tuple[Path, str]]) -> tuple[Picture, ...]:
    return tuple(found for path, words in files if (found := _picture(path, words)) is not None)


def _samples(folder: Path, of: plan.Plan) -> tuple[Row, ...]:
    if not isinstance(of.outputs.samples, plan.Samples) or not folder.is_dir():
        return ()
    prompts = of.outputs.samples.prompts
    groups: dict[str, list[tuple[Path, str]]] = {}
    for path in sorted(folder.glob("*.png")):
        match = re.fullmatch(r"(\d+|final)-(\d+)", path.stem)
        if match:
            place = int(match[2])
            words = prompts[place] if place < len(prompts) else path.stem
            groups.setdefault(match[1], []).append((path, words))
    titles = {key: "at the end" if key == "final" else f"step {int(key)}" for key in groups}
    return tuple(Row(titles[key], made) for key, files in groups.items() if (made := _pictures(files)))


def _answers(folder: Path) -> tuple[Answer, ...]:
    found = []
    for path in sorted(folder.glob("*.json")):
        for one in _json(path) or ():
            if isinstance(one, dict) and {"prompt", "base", "adapted"} <= one.keys():
                when = "at the end" if path.stem == "final" else f"step {path.stem.lstrip('0') or '0'}"
                found.append(Answer(when, *(str(one[key]) for key in ("prompt", "base", "adapted"))))
    return tuple(found)


def _data(of: plan.Plan) -> tuple[Picture, ...]:
    if not isinstance(of.program.data, plan.Images):
        return ()
    items: Sequence[plan.Item] = of.program.data.items
    count = min(SHOWN_PICTURES, len(items))
    chosen = [items[place * len(items) // count] for place in range(count)]
    root = Path(of.outputs.places.data)
    return _pictures((root / item.path, item.caption) for item in chosen if plan.is_inner(item.path))


def _svg(path: Path) -> str:
    """A drawing of ours as a data URI: as a picture it can run nothing, whatever is in it."""
    if not path.is_file():
        return ""
    return f"data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode()}"
