"""Buckets: every picture gets the one it fits best, by integers, and none is dropped for its shape."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorac import buckets
from lorac.spec import Images
from runtime.errors import SpecError

sides = st.integers(1, 6000)


def rule(upscale: bool = False, **given) -> buckets.Rule:
    return buckets.rule_of(Images("x", upscale=upscale, **given), 64)


@pytest.mark.parametrize(
    ("size", "bucket"),
    [
        ((1024, 1024), (512, 512)),
        ((512, 512), (512, 512)),
        ((1024, 768), (576, 448)),
        ((768, 1024), (448, 576)),
        ((1920, 1080), (640, 384)),
        ((4000, 1000), (1024, 256)),
        ((3000, 300), (1024, 256)),
        ((450, 450), (448, 448)),
        ((300, 900), (256, 768)),
        ((255, 1000), None),
    ],
)
def test_common_sizes(size, bucket):
    assert buckets.bucket_of(rule(resolution=512), *size) == bucket


def test_a_small_picture_is_enlarged_only_if_asked():
    assert buckets.bucket_of(rule(), 100, 100) is None
    assert buckets.bucket_of(rule(upscale=True), 100, 100) == (512, 512)


def test_without_buckets_every_picture_is_cropped_to_one_square():
    square = rule(buckets=False, resolution=512)

    assert buckets.bucket_of(square, 3000, 700) == (512, 512)
    assert buckets.bucket_of(square, 3000, 500) is None
    assert buckets.largest_buckets(square) == ((512, 512),)


def test_the_largest_buckets_of_512():
    assert buckets.largest_buckets(rule(resolution=512)) == (
        (256, 1024),
        (320, 768),
        (384, 640),
        (448, 576),
        (512, 512),
        (576, 448),
        (640, 384),
        (768, 320),
        (1024, 256),
    )


def test_a_small_resolution_has_one_bucket():
    assert buckets.largest_buckets(rule(resolution=64)) == ((64, 64),)


def test_a_resolution_below_the_step_is_told():
    with pytest.raises(SpecError) as caught:
        rule(resolution=64, bucket_step=128)

    assert caught.value.lines() == [
        "error: data.resolution 64 leaves no bucket whose sides are multiples of 128",
        "hint: set data.resolution to a multiple of 128",
    ]


@given(sides, sides, st.sampled_from([64, 512, 520, 768]), st.sampled_from([64, 128]), st.booleans())
@settings(max_examples=150, deadline=None)
def test_the_bucket_is_the_best_of_all_allowed(width, height, resolution, step, upscale):
    try:
        limits = rule(resolution=resolution, bucket_step=step, upscale=upscale)
    except SpecError:
        return
    found = buckets.bucket_of(limits, width, height)

    best, best_score = None, (-1.0, 0)
    for w in range(limits.shortest, limits.longest + 1, limits.step):
        for h in range(limits.shortest, limits.longest + 1, limits.step):
            if w * h > limits.area or (not upscale and (w > width or h > height)):
                continue
            score = (min(w * height, h * width), -w * h)
            if best is None or score > best_score:
                best, best_score = (w, h), score
    assert (found is None) == (best is None)
    if found:
        assert (min(found[0] * height, found[1] * width), -found[0] * found[1]) == best_score
        assert found[0] % 64 == found[1] % 64 == 0
        assert 0 < buckets.kept(found, width, height) <= 1
        assert upscale or not buckets.is_enlarged(found, width, height)


@given(sides, sides)
@settings(max_examples=100, deadline=None)
def test_a_turned_picture_gets_the_turned_bucket(width, height):
    found = buckets.bucket_of(rule(upscale=True), width, height)
    turned = buckets.bucket_of(rule(upscale=True), height, width)

    assert found is not None
    assert turned is not None
    assert width == height or sorted(found) == sorted(turned)
    assert math.isclose(buckets.kept(found, width, height), buckets.kept(turned, height, width))
