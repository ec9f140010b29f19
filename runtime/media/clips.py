"""Clips: encoded as pictures are; samples go on from the first frame of clips, as animated WebP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL.Image import Image

from runtime import log, plan, processes, sheet
from runtime.data import pixels
from runtime.media import Ready
from runtime.media.pictures import prepare as prepare
from runtime.media.pictures import studio
from runtime.safeio import atomic, paths
from runtime.sampling import save_png

Start = tuple[Image, plan.Item]


def show(ready: Ready, step: int) -> None:
    """Clips at a checkpoint."""
    if not _samples(ready.plan).prompts:
        return
    try:
        clips = _drawn(ready, _starts(ready), _samples(ready.plan).weight)
    except Exception as error:  # a sample is never worth a run: the checkpoint is already safe
        log.warn(f"no samples at step {step}: {type(error).__name__}: {error}")
        return
    if not processes.first():
        return
    for place, clip in enumerate(clips):
        save_webp(clip, _fps(ready.plan), ready.where.output / "samples" / f"{step:06}-{place:02}.webp")
        ready.metrics.picture(step, f"sample/{place:02}", clip[-1])


def finish(ready: Ready) -> list[Image]:
    """The clips at the LoRA's preferred weight, and a sheet of first and last frames beside the base's and the data's.

    Returns the last frames."""
    samples, weight, output = _samples(ready.plan), ready.plan.outputs.preferred_weight, ready.where.output
    if not samples.prompts:
        return []
    try:
        starts = _starts(ready)
        clips = {
            name: _drawn(ready, starts, at) for name, at in (("base", 0.0), (f"LoRA {weight:g}", weight))
        }
    except Exception as error:  # a picture is never worth a run: the LoRA is written all the same
        log.warn(f"no final samples: {type(error).__name__}: {error}")
        return []
    if not processes.first():
        return []
    columns = {"first frame": [picture for picture, _ in starts]}
    columns |= {f"{name}, last": [clip[-1] for clip in drawn] for name, drawn in clips.items()}
    *_, ours = clips.values()
    for place, clip in enumerate(ours):
        save_webp(clip, _fps(ready.plan), output / "samples" / f"final-{place:02}.webp")
    save_png(sheet.sheet(samples.prompts, columns), output / "sheet.png")
    log.info(f"Contact sheet: {paths.display(output)}/sheet.png")
    return [clip[-1] for clip in ours]


def _starts(ready: Ready) -> list[Start]:
    """The clips that the prompts name, each with its first frame as large as it is trained."""
    items = {item.path: item for item in plan.pictures(ready.plan.program.data).items}
    found = []
    for name in _samples(ready.plan).prompts:
        item = items[name]
        assert item.clip is not None
        first, *_ = pixels.frames(ready.where.data, item.clip)
        found.append((pixels.fitted(first, item.bucket), item))
    return found


def _drawn(ready: Ready, starts: Sequence[Start], weight: float) -> list[list[Image]]:
    """The frames of each clip."""
    samples, count = _samples(ready.plan), plan.pictures(ready.plan.program.data).frames
    frames = studio(ready).draw(samples, weight, starts=starts)
    return [frames[at : at + count] for at in range(0, len(frames), count)]


def save_webp(frames: Sequence[Image], fps: int, path: Path) -> None:
    """Write a clip as an animation that plays over and over, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *others = frames
    with atomic.writing(path) as file:
        first.save(file, format="WEBP", save_all=True, append_images=others, duration=1000 // fps, loop=0)


def _fps(of: plan.Plan) -> int:
    return next(item.clip.fps for item in plan.pictures(of.program.data).items if item.clip)


def _samples(of: plan.Plan) -> plan.Samples:
    assert isinstance(of.outputs.samples, plan.Samples)
    return of.outputs.samples
