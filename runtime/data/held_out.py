"""Which samples are held out from training: a pure function of what each says, and a seed.

- A sample's luck is a hash of its content and the seed, so its place in the file decides nothing, and samples that say
  the same always come to the same side: nothing that is measured on was trained on, word for word.
- By fraction, a sample added or removed moves no other. By count, it moves as few as there can be: those at the border.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence

import attrs

from runtime.data.samples import Sample, Text, content_digest
from runtime.errors import InputError, Problem


@attrs.frozen
class Split:
    """Numbers of the samples on each side, ascending."""

    train: tuple[int, ...]
    held_out: tuple[int, ...]


def by_fraction(
    samples: Iterable[Sample | Text], fraction: float, seed: int, where: str = "held_out"
) -> Split:
    """Hold out about this share (0 < fraction < 1) of what is said. Raises InputError where a side stays empty."""
    digests = [content_digest(sample) for sample in samples]
    held = {digest for digest in set(digests) if luck(digest, seed) < fraction}
    return _split(digests, held, where)


def by_count(samples: Sequence[Sample | Text], count: int, seed: int, where: str = "held_out") -> Split:
    """Hold out `count` >= 1 samples; more only where the last of them is there several times.

    Raises InputError where a side stays empty.
    """
    digests = [content_digest(sample) for sample in samples]
    times = Counter(digests)
    held: set[str] = set()
    so_far = 0
    for digest in sorted(times, key=lambda digest: (luck(digest, seed), digest)):
        if so_far >= count:
            break
        held.add(digest)
        so_far += times[digest]
    return _split(digests, held, where)


SPLIT_SEED = 0
"""Of pictures: not the training's seed, so that runs are measured on the same ones."""


def by_digest(digests: Sequence[str], fraction: float, where: str) -> frozenset[str]:
    """Hold out this share (0 < fraction < 1) of different files, at least one, by their sha256.

    By count, since pictures are few. Raises InputError where none is left to train on.
    """
    count = share(len(digests), fraction)
    if count >= len(digests):
        what = f"of {len(digests):,} pictures none is left to train on"
        raise InputError(Problem(where, what, "hold out fewer, or add pictures"))
    return frozenset(sorted(digests, key=lambda digest: (luck(digest, SPLIT_SEED), digest))[:count])


def share(count: int, fraction: float) -> int:
    """How many of `count` pictures are held out: the nearest number to the fraction, at least one."""
    return max(1, round(count * fraction))


def luck(digest: str, seed: int) -> float:
    """A content's uniform number in [0, 1), with 53 bits."""
    first = hashlib.sha256(f"held out {seed} {digest}".encode()).digest()[:8]
    return (int.from_bytes(first, "big") >> 11) * 2.0**-53


def _split(digests: Sequence[str], held: set[str], where: str) -> Split:
    sides = Split(
        train=tuple(at for at, digest in enumerate(digests) if digest not in held),
        held_out=tuple(at for at, digest in enumerate(digests) if digest in held),
    )
    has = f"of {len(digests):,} samples, {len(set(digests)):,} of them different,"
    if not sides.train:
        raise InputError(Problem(where, f"{has} none is left to train on", "hold out fewer, or add samples"))
    if not sides.held_out:
        raise InputError(Problem(where, f"{has} none is held out", "hold out more, or add samples"))
    return sides
