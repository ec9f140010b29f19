"""Held-out samples: nothing said in training is measured on, and samples added later move none."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from runtime.data import held_out
from runtime.data.samples import Message, Sample, Text, content_digest
from runtime.errors import InputError


def texts(said: list[str]) -> list[Sample | Text]:
    return [Text(text, f"set.txt:{at}") for at, text in enumerate(said, start=1)]


some = st.lists(st.sampled_from("abcdefghijkl"), min_size=2, max_size=40)
seeds = st.integers(0, 2**63)


@given(some, seeds, st.integers(1, 5) | st.floats(0.1, 0.9))
@settings(max_examples=80, deadline=None)
def test_every_sample_is_on_one_side_and_nothing_is_said_on_both(said, seed, size):
    split = held_out.by_count if isinstance(size, int) else held_out.by_fraction
    try:
        sides = split(texts(said), size, seed)
    except InputError:
        assume(False)
    assert sorted(sides.train + sides.held_out) == list(range(len(said)))
    assert sides.train and sides.held_out
    assert not {said[at] for at in sides.train} & {said[at] for at in sides.held_out}


@given(st.permutations([str(number) for number in range(30)]), st.lists(st.text(min_size=3)), seeds)
@settings(max_examples=40, deadline=None)
def test_by_fraction_neither_order_nor_added_samples_move_a_sample(said, added, seed):
    def held(those: list[str]) -> set[str]:
        return {those[at] for at in held_out.by_fraction(texts(those), 0.5, seed).held_out}

    before = held([str(number) for number in range(30)])
    assert held(said) == before
    assert held(added + said) & set(said) == before


@given(st.sets(st.text(max_size=3), min_size=3, max_size=30), st.text(min_size=4), seeds)
@settings(max_examples=40, deadline=None)
def test_by_count_as_many_are_held_out_and_one_added_moves_one_at_most(said, added, seed):
    before, after = sorted(said), [added, *sorted(said)]
    first = {before[at] for at in held_out.by_count(texts(before), 2, seed).held_out}
    second = {after[at] for at in held_out.by_count(texts(after), 2, seed).held_out}
    assert len(first) == len(second) == 2
    assert len(first & second) >= 1 and second <= first | {added}


def test_the_fraction_is_met_and_the_seed_decides_who():
    said = [str(number) for number in range(4000)]
    first, second = (held_out.by_fraction(texts(said), 0.1, seed).held_out for seed in (1, 2))
    assert abs(len(first) - 400) < 60 and abs(len(second) - 400) < 60
    assert len(set(first) & set(second)) < 100


def test_the_same_conversation_with_other_messages_trained_stays_on_one_side():
    sample = Sample((Message("user", "a", False), Message("assistant", "b", True)), "a.jsonl:1")
    untrained = tuple(attrs.evolve(message, trained=False) for message in sample.messages)
    assert content_digest(sample) == content_digest(Sample(untrained, "b.jsonl:9"))


@pytest.mark.parametrize(
    ("said", "count", "expected"), [(["a", "a"], 1, "none is left to train on"), ([], 1, "none")]
)
def test_a_split_that_leaves_a_side_empty_is_refused(said, count, expected):
    with pytest.raises(InputError, match=expected):
        held_out.by_count(texts(said), count, 0)


def test_a_fraction_too_small_for_the_set_is_refused():
    with pytest.raises(InputError, match="of 2 samples, 2 of them different, none is held out"):
        held_out.by_fraction(texts(["a", "b"]), 1e-9, 0)
