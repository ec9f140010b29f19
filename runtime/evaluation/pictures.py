"""Pictures drawn by a checkpoint at a weight, and what they are like: the words, the style, each other, a copy."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence

import attrs
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from runtime import plan, sheet
from runtime.data import pixels
from runtime.evaluation import figures, judge, results, subject
from runtime.evaluation.figures import Vectors
from runtime.evaluation.results import Picture, Recited, Row, Threshold
from runtime.evaluation.subject import Subject
from runtime.safeio import images, paths
from runtime.sampling import save_png

CAPTIONS = 4
"""Captions that are drawn where the plan has no prompts."""
RECITED = 8
"""Captions that were trained on, and as many that were held out, that are drawn to look for what is learned by heart:
it shows by its own caption first (Carlini et al. 2023, arXiv:2301.13188, draw those too)."""


@attrs.frozen(kw_only=True)
class Scene:
    """What every row is drawn and judged by.

    Row i of `training`, the training pictures' pixels, shows the picture `shows[i]` of the plan. With a judge, `style`
    is how it sees them, and `words` how it sees the prompts. `recited` are pictures whose captions are drawn, each with
    its pixels (mirrored, too, where training mirrors) and whether it was trained on.
    """

    subject: Subject
    clip: judge.Clip | None
    wanted: plan.Samples
    series: int
    words: Vectors | None
    style: Vectors | None
    training: Vectors
    shows: NDArray[np.int64]
    threshold: Threshold
    recited: tuple[tuple[plan.Item, Vectors, bool], ...]


def scene(of: Subject, clip: judge.Clip | None, series: int) -> Scene:
    """Look at the training pictures, and settle what is drawn: the plan's prompts, `series` pictures of each, from the
    plan's seed on; where it has none, captions that were held out or trained on. Earlier pictures are removed."""
    data = plan.pictures(of.program.data)
    wanted = of.of.outputs.samples
    assert isinstance(wanted, plan.Samples)
    captions = dict.fromkeys(item.caption for item in (*data.held_items, *data.items) if item.caption)
    prompts = wanted.prompts or tuple(captions)[:CAPTIONS]
    shown = list(_shown(of, data.items, mirrored=False))
    mirrored = list(_shown(of, data.items, mirrored=True)) if data.flip else []
    training = judge.by_pixels(shown + mirrored)
    shows = np.arange(len(training)) % len(data.items)
    held = list(_shown(of, data.held_items, mirrored=False))
    value, count = figures.threshold(training, shows, judge.by_pixels(held) if held else training[:0])
    shutil.rmtree(of.where.output / results.PICTURES, ignore_errors=True)
    return Scene(
        subject=of,
        clip=clip,
        wanted=attrs.evolve(wanted, prompts=prompts),
        series=series,
        words=clip.texts(prompts) if clip and prompts else None,
        style=clip.pictures(shown) if clip else None,
        training=training,
        shows=shows,
        threshold=Threshold(value=value, expected=figures.EXPECTED, pictures=count),
        recited=tuple(_to_recite(of, data)),
    )


def row(of: Scene, step: int, weight: float) -> Row:
    """The figures of the present weights at a weight; `step` names them."""
    drawn = list(_drawn(of, weight))
    count = len(of.wanted.prompts)
    by_pixels = judge.by_pixels([picture for _, picture in drawn]) if drawn else of.training[:0]
    judged = of.clip.pictures([picture for _, picture in drawn]) if of.clip and drawn else None
    pictures = tuple(_told(of, drawn, by_pixels, judged, step, weight))
    seen = by_pixels if judged is None else judged
    spread = [gap for at in range(count) for gap in figures.diversity(seen[at::count])]
    return Row(
        step=step,
        weight=weight,
        loss=results.of_losses(subject.held_out(of.subject, weight)),
        similarity=results.figure([one.similarity for one in pictures if one.similarity is not None]),
        closeness=results.figure([one.closeness for one in pictures if one.closeness is not None]),
        diversity=results.figure(spread),
        nearest=results.figure([one.nearest for one in pictures]),
        copies=sum(one.is_copy for one in pictures) / len(pictures) if pictures else None,
        pictures=pictures,
        recited=tuple(_recited(of, step, weight)),
    )


def _drawn(of: Scene, weight: float) -> Iterator[tuple[int, Image.Image]]:
    """Each picture with its seed: all prompts, then all again with the next seeds."""
    count = len(of.wanted.prompts)
    for number in range(of.series if count else 0):
        first = of.wanted.seed + number * count
        pictures = subject.draw(of.subject, attrs.evolve(of.wanted, seed=first), weight)
        yield from enumerate(pictures, start=first)


def _told(
    of: Scene,
    drawn: Sequence[tuple[int, Image.Image]],
    by_pixels: Vectors,
    judged: Vectors | None,
    step: int,
    weight: float,
) -> Iterator[Picture]:
    """Save each picture, and say what it is like."""
    data, prompts = plan.pictures(of.subject.program.data), of.wanted.prompts
    near, at = figures.nearest(by_pixels, of.training)
    close = figures.closeness(judged, of.style) if judged is not None and of.style is not None else None
    for place, (seed, picture) in enumerate(drawn):
        prompt = place % len(prompts)
        file = f"{results.PICTURES}/{step:06}-{weight:.2f}-{prompt:02}-{seed}.png"
        save_png(picture, of.subject.where.output / file)
        yield Picture(
            file=file,
            prompt=prompts[prompt],
            seed=seed,
            similarity=float(judged[place] @ of.words[prompt])
            if judged is not None and of.words is not None
            else None,
            closeness=close[place] if close else None,
            nearest=near[place],
            nearest_file=data.items[int(of.shows[at[place]])].path,
            is_copy=near[place] > of.threshold.value,
        )


def _to_recite(of: Subject, data: plan.Images) -> Iterator[tuple[plan.Item, Vectors, bool]]:
    """Pictures whose captions are drawn, evenly spread, with their pixels and whether they were trained on.

    Only captions of a single picture; none where nothing is held out, since then there is nothing to compare with.
    """
    times = Counter({item.path: item.caption for item in plan.every_item(data)}.values())
    for items, trained in ((data.items, True), (data.held_items, False)):
        single = [*{item.path: item for item in items if item.caption and times[item.caption] == 1}.values()]
        count = min(RECITED, len(single)) if data.held_items else 0
        chosen = [single[place * len(single) // count] for place in range(count)]
        seen = [_shown(of, chosen, mirrored) for mirrored in ((False, True) if data.flip else (False,))]
        for item, *pictures in zip(chosen, *seen, strict=True):
            yield item, judge.by_pixels(pictures), trained


def _recited(of: Scene, step: int, weight: float) -> Iterator[Recited]:
    """Draw each of those captions once, and say how near that is to its own picture."""
    captions = tuple(item.caption for item, _, _ in of.recited)
    drawn = subject.draw(of.subject, attrs.evolve(of.wanted, prompts=captions), weight) if captions else []
    for place, ((item, own, trained), picture) in enumerate(zip(of.recited, drawn, strict=True)):
        file = f"{results.PICTURES}/{step:06}-{weight:.2f}-recited-{place:02}.png"
        save_png(picture, of.subject.where.output / file)
        near, _ = figures.nearest(judge.by_pixels([picture]), own)
        yield Recited(file=file, caption=item.caption, own_file=item.path, nearness=near[0], trained=trained)


def grid(of: Scene, base: Row, rows: Sequence[Row]) -> Image.Image:
    """The X/Y grid: LoRA weights from left to right, checkpoints from top to bottom, for each prompt in turn."""
    output, prompts = of.subject.where.output, of.wanted.prompts
    steps = list(dict.fromkeys(one.step for one in rows))
    lines = [(prompt, step) for prompt in range(len(prompts)) for step in steps]
    columns = {"base": [_first(base, prompt) for prompt, _ in lines]}
    for weight in dict.fromkeys(one.weight for one in rows):
        at = {one.step: one for one in rows if one.weight == weight}
        columns[f"{weight:g}"] = [_first(at[step], prompt) for prompt, step in lines]
    titles = [f"step {step}: {prompts[prompt]}" for prompt, step in lines]
    opened = {
        name: [images.open_picture(output / one.file) for one in those] for name, those in columns.items()
    }
    return sheet.sheet(titles, opened)


def _first(of: Row, prompt: int) -> Picture:
    """A prompt's picture from the first seed."""
    return of.pictures[prompt]


def _shown(of: Subject, items: Sequence[plan.Item], mirrored: bool) -> Iterator[Image.Image]:
    """Pictures of the plan as they were trained on."""
    for item in items:
        picture = images.open_picture(paths.inside(of.where.data, item.path))
        fitted = pixels.fitted(picture, item.bucket)
        yield fitted.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else fitted
