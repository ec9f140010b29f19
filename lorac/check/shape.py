"""Pictures whose size or shape the training cannot use well."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from lorac import buckets
from lorac.check.scan import Scan
from lorac.data_lock import CROPPED
from lorac.spec import Images
from lorac.spec_data import GRID
from runtime.errors import Problem

SMALL = 0.5
"""Share of resolution² under which a picture counts as too small."""

LONG = 3.0
"""Ratio of the sides above which few bases have seen anything."""


def too_small(scan: Scan) -> Iterator[Problem]:
    """Pictures that the resolution would have to enlarge, or that would be trained in a far smaller bucket."""
    rule = _rule(scan)
    for name, picture in scan.pictures.items():
        width, height = picture.size
        bucket = buckets.bucket_of(rule, width, height)
        if bucket is None or bucket[0] * bucket[1] < SMALL * scan.resolution**2:
            what = f"is too small for resolution {scan.resolution}: {width}×{height} pixels"
            yield Problem(scan.shown(name), what, "take a larger one, or train at a lower resolution")


def too_long(scan: Scan) -> Iterator[Problem]:
    """Pictures so wide or high that much of them is cropped away."""
    rule = attrs.evolve(_rule(scan), upscale=True)
    for name, picture in scan.pictures.items():
        width, height = picture.size
        bucket = buckets.bucket_of(rule, width, height)
        lost = 1 - buckets.kept(bucket, width, height) if bucket else 0.0
        ratio = max(width, height) / min(width, height)
        if lost > CROPPED or ratio > LONG:
            why = (
                f"training would crop {lost:.0%} of it away"
                if lost > CROPPED
                else "few bases know such shapes"
            )
            what = f"is {width}×{height}, {ratio:.1f} to 1: {why}"
            yield Problem(scan.shown(name), what, "crop it to what matters, or leave it out")


def has_bucket(scan: Scan, width: int, height: int) -> bool:
    """Whether a plan takes a picture of this size at the resolution, without enlarging it."""
    return buckets.bucket_of(_rule(scan), width, height) is not None


def _rule(scan: Scan) -> buckets.Rule:
    return buckets.rule_of(Images(str(scan.folder.root), resolution=scan.resolution), GRID)
