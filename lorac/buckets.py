"""Aspect-ratio buckets: the sizes that pictures are trained at (NovelAI 2022; every peer's practice).

- A bucket's area is at most resolution², its sides are multiples of one step, between the shortest and
  longest side.
- A picture goes to the bucket in which the whole of it would fit at the largest scale; of equals, to the
  smallest, which crops least. Integers only: the same everywhere.
- A picture is never enlarged unless the spec allows it: a small one gets a bucket smaller than resolution².
- Every picture that has a bucket is used: a bucket with few pictures is no reason to drop them.
"""

from __future__ import annotations

import functools
import math

import attrs

from lorac.parts import Auto
from lorac.spec import Images
from runtime.errors import Problem, SpecError

Size = tuple[int, int]


@attrs.frozen(kw_only=True)
class Rule:
    """Limits of a bucket's sides, in pixels, all multiples of `step`; `area` bounds width × height."""

    step: int
    shortest: int
    longest: int
    area: int
    upscale: bool


def resolutions(images: Images) -> tuple[int, ...]:
    """Every resolution that a spec asks for, data.resolution first."""
    return tuple(dict.fromkeys((images.resolution, *images.more_resolutions)))


def rule_of(images: Images, grid: int, resolution: int | None = None) -> Rule:
    """The rule that a spec asks for at one of its resolutions (None: its first), on a family's grid.

    Raises SpecError where it leaves no bucket.
    """
    resolution = images.resolution if resolution is None else resolution
    if not images.buckets:
        side = resolution // grid * grid
        rule = Rule(step=grid, shortest=side, longest=side, area=side * side, upscale=images.upscale)
    else:
        step = math.lcm(images.bucket_step, grid)
        shortest = resolution // 2 if isinstance(images.min_bucket, Auto) else images.min_bucket
        longest = 2 * resolution if isinstance(images.max_bucket, Auto) else images.max_bucket
        rule = Rule(
            step=step,
            shortest=max(step, math.ceil(shortest / step) * step),
            longest=longest // step * step,
            area=resolution * resolution,
            upscale=images.upscale,
        )
    if not rule.shortest or rule.shortest**2 > rule.area or rule.longest < rule.shortest:
        what = f"data.resolution {resolution} leaves no bucket whose sides are multiples of {rule.step}"
        raise SpecError(Problem("", what, f"set data.resolution to a multiple of {rule.step}"))
    return rule


@functools.lru_cache(maxsize=65536)
def bucket_of(rule: Rule, width: int, height: int) -> Size | None:
    """A picture's bucket; None if it is too small for every bucket and may not be enlarged."""
    best: tuple[int, int, Size] | None = None
    widest = rule.longest if rule.upscale else min(rule.longest, width)
    highest = rule.longest if rule.upscale else min(rule.longest, height)
    for w in range(rule.shortest, widest // rule.step * rule.step + 1, rule.step):
        top = min(highest, rule.area // w) // rule.step * rule.step
        for h in _heights(rule, w * height, width):
            h = min(max(h, rule.shortest), top)
            if h < rule.shortest:
                continue
            # The scale at which the whole picture fits in, times width × height.
            candidate = (min(w * height, h * width), -w * h, (w, h))
            best = candidate if best is None else max(best, candidate)
    return best[2] if best else None


def largest_buckets(rule: Rule) -> tuple[Size, ...]:
    """The buckets that no other contains, by width: what an unlocked plan reckons with."""
    found = set()
    for w in range(rule.shortest, rule.longest + 1, rule.step):
        h = min(rule.area // w, rule.longest) // rule.step * rule.step
        if h >= rule.shortest:
            found.add((w, h))
    inner = {(w, h) for w, h in found if (w + rule.step, h) in found}
    return tuple(sorted(found - inner))


def kept(bucket: Size, width: int, height: int) -> float:
    """Share of the picture that is left after the crop."""
    w, h = bucket
    return min(w * height, h * width) / max(w * height, h * width)


def is_enlarged(bucket: Size, width: int, height: int) -> bool:
    """Whether a picture of this size has to grow to fill the bucket."""
    return bucket[0] > width or bucket[1] > height


def _heights(rule: Rule, scaled: int, width: int) -> Size:
    """The two multiples of step around the height that has the picture's own ratio, scaled / width."""
    below = scaled // width // rule.step * rule.step
    return below, below + rule.step
