"""Pictures: what never changes is encoded once; samples are drawn from fixed prompts and seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import torch
from PIL.Image import Image

from runtime import log, plan, processes, sheet
from runtime.data import levels
from runtime.data.cache import Encoded, encode, stacked
from runtime.data.order import Order, Sample, micro_batches
from runtime.data.views import PLAIN
from runtime.families import family
from runtime.families.protocol import Batch, Modules
from runtime.media import Ready
from runtime.preflight import Where
from runtime.safeio import images, paths
from runtime.sampling import Studio, save_png


@attrs.frozen(kw_only=True)
class Pictures:
    """The pictures of a plan, encoded, in their order.

    `measured` are those that are held out, each with the keys of what is drawn for its measurements.
    """

    data: plan.Images
    encoded: Encoded
    order: Order
    device: torch.device
    measured: tuple[tuple[plan.Item, tuple[int, ...]], ...]

    def step(self, number: int) -> Sequence[Sample]:
        return self.order.step(number)

    def cut(self, samples: Sequence[Sample], micro_batch: int) -> list[tuple[Sample, ...]]:
        return micro_batches(samples, micro_batch)

    def batch(self, samples: Sequence[Sample]) -> Batch:
        return self.encoded.batch(samples, self.device)

    def weigh(self, samples: Sequence[Sample]) -> int:
        return len(samples)

    def names(self, samples: Sequence[Sample]) -> list[str]:
        return [self.data.items[sample.item].path for sample in samples]

    def held_out(self, micro_batch: int) -> Iterable[tuple[Batch, list[tuple[int, int]]]]:
        rows: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for number, (item, keys) in enumerate(self.measured):
            rows.setdefault(item.bucket, []).extend((number, key) for key in keys)
        for same in rows.values():
            for at in range(0, len(same), micro_batch):
                part = same[at : at + micro_batch]
                yield stacked([self._row(*row) for row in part], self.device), [(n, 1) for n, _ in part]

    def _row(self, number: int, key: int) -> Batch:
        item = self.measured[number][0]
        return self.encoded.of_item(item, PLAIN, item.caption, key)


def prepare(
    of: Any,
    modules: Modules,
    tokenizers: dict[str, Any],
    program: plan.Program,
    where: Where,
    device: torch.device,
) -> Pictures:
    data = program.data
    assert isinstance(data, plan.Images)
    encoded = encode(of, modules, tokenizers, program, where.data, where.cache, encoding())
    return Pictures(
        data=data,
        encoded=encoded,
        order=Order(data, program.train.seed, program.train.effective_batch),
        device=device,
        measured=tuple(
            (item, levels.keys(item, partial(encoded.drawn, item, PLAIN))) for item in data.held_items
        ),
    )


def encoding() -> Callable[[str, int, int], None]:
    """A bar for each kind of thing that is encoded, made when the first of it is done."""
    bars: dict[str, log.Bar] = {}

    def tell(what: str, done: int, total: int) -> None:
        if what not in bars:
            bars[what] = log.Bar(f"encoding {what}", total).__enter__()
        bars[what].step(done - bars[what].done)
        if done == total:
            bars[what].__exit__(None, None, None)

    return tell


def show(ready: Ready, step: int) -> None:
    """Samples at a checkpoint."""
    samples = _wanted(ready.plan)
    if not samples.prompts:
        return
    try:
        pictures = studio(ready).draw(samples, samples.weight)
    except Exception as error:  # a sample is never worth a run: the checkpoint is already safe
        log.warn(f"no samples at step {step}: {type(error).__name__}: {error}")
        return
    if not processes.first():
        return
    for place, picture in enumerate(pictures):
        save_png(picture, ready.where.output / "samples" / f"{step:06}-{place:02}.png")
        ready.metrics.picture(step, f"sample/{place:02}", picture)


def finish(ready: Ready) -> list[Image]:
    """The pictures at the LoRA's preferred weight, and a sheet of them beside the base's and the references."""
    samples, weight = _wanted(ready.plan), ready.plan.outputs.preferred_weight
    output = ready.where.output
    if not samples.prompts:
        return []
    try:
        drawing = studio(ready)
        previews = drawing.draw(samples, weight)
        columns = {"base": drawing.draw(samples, 0.0), f"LoRA {weight:g}": previews}
        if samples.references:
            columns["reference"] = [images.open_picture(Path(place)) for place in samples.references]
    except Exception as error:  # a picture is never worth a run: the LoRA is written all the same
        log.warn(f"no final samples: {type(error).__name__}: {error}")
        return []
    if not processes.first():
        return []
    for place, picture in enumerate(previews):
        save_png(picture, output / "samples" / f"final-{place:02}.png")
    save_png(sheet.sheet(samples.prompts, columns), output / "sheet.png")
    log.info(f"Contact sheet: {paths.display(output)}/sheet.png")
    return previews


def studio(ready: Ready) -> Studio:
    """What draws."""
    program = ready.plan.program
    return Studio(
        family=family(program.base.family),
        modules=ready.modules,
        tokenizers=ready.tokenizers,
        program=program,
    )


def _wanted(of: plan.Plan) -> plan.Samples:
    assert isinstance(of.outputs.samples, plan.Samples)
    return of.outputs.samples
