"""Pictures from the base with the adapter on it, at any weight, while training and after."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import torch
from PIL.Image import Image

from runtime import encoders, plan, tiles
from runtime.adapters.adapted import weigh
from runtime.families.protocol import Family, Modules, Wish
from runtime.safeio import atomic


@attrs.frozen(kw_only=True)
class Studio:
    """All that sampling needs. Modules that are offloaded wait on the CPU."""

    family: Family
    modules: Modules
    tokenizers: dict[str, Any]
    program: plan.Program

    def draw(
        self,
        samples: plan.Samples,
        weight: float,
        prompts: Sequence[str] = (),
        starts: Sequence[tuple[Image, plan.Item]] = (),
    ) -> list[Image]:
        """One picture for each prompt, prompt i with seed + i. Or the frames of one clip after the other, each from its
        first one and as long, fast and large as the item."""
        pictures = []
        with self._ready(weight), tiles.decoding(self.family, self.modules, samples), torch.no_grad():
            for place, prompt in enumerate(prompts or samples.prompts):
                start, item = starts[place] if starts else (None, None)
                width, height = item.bucket if item else (samples.width, samples.height)
                wish = Wish(
                    prompt=prompt,
                    negative_prompt=samples.negative_prompt,
                    seeds=[samples.seed + place],
                    steps=samples.steps,
                    guidance=samples.guidance,
                    width=width,
                    height=height,
                    start=start,
                    clip=item.clip if item else None,
                )
                pictures += self.family.sample(self.modules, self.tokenizers, self.program.base, wish)
        return pictures

    @contextmanager
    def _ready(self, weight: float) -> Iterator[None]:
        """Bring every module to the device in evaluation mode, at the adapter's weight; then put all back."""
        compute = self.program.compute
        # What is trained is there, or fetches its own blocks; only what encodes and decodes is moved.
        waiting = [name for name in self.modules if name in compute.offloaded]
        before = {name: m.training for name, m in self.modules.items()}
        for name in waiting:
            encoders.move(self.family, name, self.modules[name], compute, compute.device)
        for module in self.modules.values():
            module.eval()
            weigh(module, weight)
        try:
            yield
        finally:
            for name in waiting:
                encoders.move(self.family, name, self.modules[name], compute, "cpu")
            for name, module in self.modules.items():
                module.train(before[name])
                weigh(module, 1.0)


def save_png(picture: Image, path: Path) -> None:
    """Write a picture, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic.writing(path) as file:
        picture.save(file, format="PNG", optimize=True)
