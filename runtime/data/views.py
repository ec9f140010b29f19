"""How a sample sees its picture: mirrored, cropped elsewhere, in other colours. A pure function of picture and number.

- Latents are encoded once, so a picture has a bounded number of views, and the disk they take is known beforehand
  (OneTrainer's image_variations). Which one a sample sees is drawn from its key, as everything is.
- As the wordings of a caption, they do not depend on the training's seed: runs share them.
- What is held out is measured as it is.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import numpy as np

from runtime import plan
from runtime.data import draws


@attrs.frozen(kw_only=True)
class View:
    """`left` and `top` are the shares of what a crop leaves over that lie left of it and above it. `zoom` is the share
    of each side that is cut away besides. Brightness, contrast and saturation are factors; `hue` is turned, by a share
    of the circle. `flip` mirrors what was cropped.
    """

    flip: bool = False
    left: float = 0.5
    top: float = 0.5
    zoom: float = 0.0
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0

    @property
    def crop(self) -> tuple[float, float, float]:
        """What decides which part of the picture is seen."""
        return self.left, self.top, self.zoom

    @property
    def colours(self) -> tuple[float, float, float, float]:
        """What decides how that is coloured."""
        return self.brightness, self.contrast, self.saturation, self.hue


PLAIN = View()
"""The picture as it is, cropped at its centre."""


def view(data: plan.Images, item: plan.Item, number: int, flip: bool) -> View:
    """View `number` of a picture, from 0; the picture as it is where the data have no others."""
    wanted = data.augment
    if wanted is None:
        return View(flip=flip)
    keys = draws.mix(draws.VIEW, int(item.sha256[:16], 16), number, np.arange(7, dtype=np.uint64))
    left, top, zoom, *jitters = draws.uniform(keys, draws.VIEW).tolist()
    brightness, contrast, saturation, hue = (2 * jitter - 1 for jitter in jitters)
    return View(
        flip=flip,
        left=left if wanted.random_crop else 0.5,
        top=top if wanted.random_crop else 0.5,
        zoom=wanted.random_zoom * zoom,
        brightness=1 + wanted.color_jitter * brightness,
        contrast=1 + wanted.color_jitter * contrast,
        saturation=1 + wanted.color_jitter * saturation,
        hue=wanted.hue_jitter * hue,
    )


def every_view(data: plan.Images) -> Iterator[tuple[plan.Item, View]]:
    """All that a sample may see, and what is held out as it is."""
    for flip in (False, True) if data.flip else (False,):
        for item in data.items:
            for number in range(plan.picture_variants(data)):
                yield item, view(data, item, number, flip)
    for item in data.held_items:
        yield item, PLAIN
