"""Digests of samples: over what is said, all of it, and nothing else."""

from __future__ import annotations

from itertools import combinations

from runtime.data.samples import Message, Sample, Text, content_digest, digest


def sample(*messages: tuple[str, str, bool], where: str = "a.jsonl:1") -> Sample:
    return Sample(tuple(Message(*message) for message in messages), where)  # type: ignore[arg-type]


def test_where_a_sample_was_read_is_not_in_its_digest():
    assert digest(sample(("user", "a", False))) == digest(sample(("user", "a", False), where="b.csv:9"))
    assert digest(Text("a", "a.txt:1")) == digest(Text("a", "b.txt:1"))


def test_samples_that_differ_in_anything_said_have_other_digests():
    different = [
        Text("a", ""),
        Text("b", ""),
        sample(("user", "a", False)),
        sample(("assistant", "a", False)),
        sample(("user", "a", False), ("assistant", "b", True)),
        sample(("user", "a b", False)),
        sample(("user", 'a",false],["assistant","b', False)),
        sample(("user", "é", False)),
        sample(("user", "e\u0301", False)),
    ]
    assert all(digest(one) != digest(other) for one, other in combinations(different, 2))
    assert all(content_digest(one) != content_digest(other) for one, other in combinations(different, 2))


def test_what_is_trained_is_in_the_digest_and_not_in_the_contents():
    one, other = sample(("assistant", "a", True)), sample(("assistant", "a", False))
    assert digest(one) != digest(other)
    assert content_digest(one) == content_digest(other)


def test_digests_are_pinned_against_drift():
    """A changed digest breaks every lock: change it only with the plan's format version."""
    assert digest(Text("a", "")) == "69518962c6f3a9d12e9098db56ba7cfdb23b64e4d608a4d994c80c140d31914c"
    assert (
        digest(sample(("user", "a", False), ("assistant", "é", True)))
        == "3f4378712491fe752bb5f2a743c8b475f5cf6f7a8abf3c75f7438e0b76fdfdb4"
    )
