"""Blur: the variance of the Laplacian (Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy")."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from runtime.errors import Problem

if TYPE_CHECKING:
    from lorac.check.scan import Scan

SIDE = 512
"""Longest side at which sharpness is measured, so that a large picture is not blurred for its size."""

BLURRED = 100.0
"""Variance below which a picture counts as blurred, of 8-bit grey: the customary threshold (pyimagesearch, "Blur
detection with OpenCV", 2015)."""


FAINT = 0.03
"""Share of a picture's own variance below which the Laplacian's is little: a sharp but pale drawing has more (a white
heart on white 0.16, measured)."""


def blurred(scan: Scan) -> Iterator[Problem]:
    """Pictures without sharp edges."""
    for name, picture in scan.pictures.items():
        edges, contrast = picture.sharpness
        if edges < BLURRED and edges <= FAINT * contrast:
            what = f"is blurred, or has hardly any edges (sharpness {edges:.0f}, under {BLURRED:.0f})"
            yield Problem(scan.shown(name), what, "take a sharper one, unless blur is the style")


def sharpness(picture: Image.Image) -> tuple[float, float]:
    """Variance of the Laplacian (4 neighbours) of a picture's luminance, at most SIDE pixels long, and its own."""
    grey = picture.convert("L")
    grey.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    light = np.asarray(grey).astype(np.int32)
    if min(light.shape) < 3:
        return 0.0, 0.0
    inner = light[1:-1, 1:-1]
    laplacian = light[:-2, 1:-1] + light[2:, 1:-1] + light[1:-1, :-2] + light[1:-1, 2:] - 4 * inner
    return float(laplacian.var()), float(light.var())
