"""The order of samples: whole, pure, and blind to micro-batches."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import plan
from runtime.data import draws, order

BUCKETS = [(64, 64), (96, 48), (48, 96)]


def images(items: list[tuple[int, int]], flip: bool = False, caption_dropout: float = 0.0) -> plan.Images:
    """A picture set from (bucket number, repeats)."""
    return plan.Images(
        digest="",
        items=tuple(
            plan.Item(
                path=f"{at}.png",
                sha256="",
                width=64,
                height=64,
                caption="x",
                repeats=repeats,
                bucket=BUCKETS[bucket],
            )
            for at, (bucket, repeats) in enumerate(items)
        ),
        expected=sum(repeats for _, repeats in items),
        resolution=64,
        flip=flip,
        caption_dropout=caption_dropout,
    )


sets = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4)), min_size=1, max_size=40)


@given(sets, st.integers(0, 2**63), st.integers(1, 12), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_an_epoch_visits_every_sample_once_and_only_its_last_step_is_short(items, seed, batch, epoch):
    data = images(items)
    walk = order.Order(data, seed, batch)
    count = order.steps_per_epoch(data, batch)
    steps = [walk.step(epoch * count + at) for at in range(count)]

    visits = Counter(sample.item for step in steps for sample in step)
    assert visits == {at: repeats for at, (_, repeats) in enumerate(items)}
    assert [len(step) for step in steps[:-1]] == [batch] * (count - 1)
    assert len(steps[-1]) == (data.expected - 1) % batch + 1
    assert all(sample.bucket == data.items[sample.item].bucket for step in steps for sample in step)
    assert len({sample.key for step in steps for sample in step}) == data.expected


@given(sets, st.integers(0, 2**63), st.integers(1, 12), st.lists(st.integers(0, 60), min_size=1))
@settings(max_examples=60, deadline=None)
def test_a_step_is_the_same_whatever_was_asked_for_before(items, seed, batch, asked):
    walk = order.Order(images(items), seed, batch)
    for step in asked:
        assert walk.step(step) == order.Order(images(items), seed, batch).step(step)


@given(sets, st.integers(1, 12), st.integers(1, 12), st.integers(0, 20))
@settings(max_examples=60, deadline=None)
def test_micro_batches_cut_a_step_by_bucket_and_lose_nothing(items, batch, micro_batch, step):
    samples = order.Order(images(items, flip=True, caption_dropout=0.3), 7, batch).step(step)
    groups = order.micro_batches(samples, micro_batch)

    assert Counter(sample for group in groups for sample in group) == Counter(samples)
    assert all(1 <= len(group) <= micro_batch for group in groups)
    assert all(len({sample.bucket for sample in group}) == 1 for group in groups)


@given(sets, st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_as_many_steps_as_buckets_allow_are_of_one_bucket(items, batch):
    data = images(items)
    per_bucket = Counter(bucket for bucket, repeats in items for _ in range(repeats))
    steps = [order.Order(data, 3, batch).step(at) for at in range(order.steps_per_epoch(data, batch))]

    pure = sum(len({sample.bucket for sample in step}) == 1 and len(step) == batch for step in steps)
    assert pure >= sum(count // batch for count in per_bucket.values())


def test_epochs_and_seeds_differ():
    data = images([(0, 1)] * 50)
    first = [sample.item for sample in order.Order(data, 1, 50).step(0)]

    assert first != [sample.item for sample in order.Order(data, 1, 50).step(1)]
    assert first != [sample.item for sample in order.Order(data, 2, 50).step(0)]
    assert first != sorted(first)


def test_the_order_is_pinned_against_drift():
    """A changed order breaks resuming: change it only with the plan's format version."""
    walk = order.Order(images([(0, 2), (1, 1), (0, 1), (2, 3)], flip=True, caption_dropout=0.5), 42, 3)

    seen = [[(s.item, s.flip, s.drop_caption) for s in walk.step(at)] for at in range(3)]
    assert seen == [
        [(2, True, True), (0, True, False), (0, True, False)],
        [(3, False, False), (3, True, True), (3, False, True)],
        [(1, True, True)],
    ]
    assert draws.sample_key(42, 3, 5) == 3083172393405911615


def test_flips_and_dropped_captions_come_at_their_rates():
    walk = order.Order(images([(0, 1)] * 4000, flip=True, caption_dropout=0.1), 5, 4000)
    samples = walk.step(0)

    assert abs(np.mean([sample.flip for sample in samples]) - 0.5) < 0.03
    assert abs(np.mean([sample.drop_caption for sample in samples]) - 0.1) < 0.02
    both = np.mean([sample.flip and sample.drop_caption for sample in samples])
    assert abs(both - 0.05) < 0.015


def test_nothing_is_flipped_or_dropped_unless_asked():
    samples = order.Order(images([(0, 1)] * 500), 5, 500).step(0)

    assert not any(sample.flip or sample.drop_caption for sample in samples)
