"""Views of a picture: off, the picture as it is; on, a few others that depend on nothing but it."""

from __future__ import annotations

import attrs

from runtime import plan
from runtime.data import views
from runtime.data.views import PLAIN, View

ITEM = plan.Item(path="a.png", sha256="ab" * 32, width=96, height=64, caption="", repeats=1, bucket=(32, 32))
OFF = plan.Augment(variants=8, random_crop=False, random_zoom=0.0, color_jitter=0.0, hue_jitter=0.0)


def images(**settings) -> plan.Images:
    augment = attrs.evolve(OFF, **settings) if settings else None
    return plan.Images(
        digest="", items=(ITEM,), expected=1, resolution=32, flip=True, caption_dropout=0.0, augment=augment
    )


def seen(**settings) -> list[View]:
    return [views.view(images(**settings), ITEM, number, False) for number in range(8)]


def test_where_nothing_varies_there_is_the_picture_and_its_mirror_image():
    assert list(views.every_view(images())) == [(ITEM, PLAIN), (ITEM, View(flip=True))]


def test_each_setting_moves_what_it_names_and_nothing_else():
    everything = {"random_crop": True, "random_zoom": 0.2, "color_jitter": 0.3, "hue_jitter": 0.1}
    names = {
        "random_crop": ("left", "top"),
        "random_zoom": ("zoom",),
        "color_jitter": ("brightness", "contrast", "saturation"),
        "hue_jitter": ("hue",),
    }
    together = seen(**everything)
    for setting, value in everything.items():
        for one, whole in zip(seen(**{setting: value}), together, strict=True):
            moved = {name: getattr(whole, name) for name in names[setting]}
            assert one == attrs.evolve(PLAIN, **moved)  # whatever else is set


def test_views_stay_within_their_bounds_and_fill_them():
    many = [
        views.view(
            images(random_crop=True, random_zoom=0.2, color_jitter=0.3, hue_jitter=0.1), ITEM, n, False
        )
        for n in range(400)
    ]
    for name, low, high in (
        ("left", 0, 1),
        ("top", 0, 1),
        ("zoom", 0, 0.2),
        ("brightness", 0.7, 1.3),
        ("contrast", 0.7, 1.3),
        ("saturation", 0.7, 1.3),
        ("hue", -0.1, 0.1),
    ):
        values = [getattr(one, name) for one in many]
        assert low <= min(values) < low + (high - low) / 20
        assert high - (high - low) / 20 < max(values) <= high


def test_views_depend_on_the_picture_alone():
    other = attrs.evolve(ITEM, sha256="cd" * 32)
    moved = attrs.evolve(ITEM, path="b.png", bucket=(64, 64), caption="x")
    data = images(random_crop=True)

    assert views.view(data, moved, 3, False) == views.view(data, ITEM, 3, False)
    assert views.view(data, other, 3, False) != views.view(data, ITEM, 3, False)
    assert views.view(data, ITEM, 3, True) == attrs.evolve(views.view(data, ITEM, 3, False), flip=True)
