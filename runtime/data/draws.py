"""Randomness without state: every draw is a function of (seed, step, sample), so a resumed run repeats it.

- The mixing is SplitMix64's finaliser (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number
  generators"; constants from its published C code): the same on every machine and version.
- Each use has its own purpose number, so that two uses of one key never see the same bits.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

Words = NDArray[np.uint64]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
FIRST = np.uint64(0xBF58476D1CE4E5B9)
SECOND = np.uint64(0x94D049BB133111EB)

SAMPLE, ORDER, BUCKETS, STEPS, FLIP, CAPTION, NOISE, VARIANT, TAG_ORDER, TAG_DROP, HELD_OUT, VIEW = range(
    1, 13
)
"""What a draw is for."""


def mix(*words: int | Words) -> Words:
    """Mix integers, or arrays of them element by element, into uniform 64-bit numbers, 1-dimensional."""
    state: Words = np.zeros(1, dtype=np.uint64)
    for word in words:
        if isinstance(word, int):
            word = np.array([word & 0xFFFFFFFFFFFFFFFF], dtype=np.uint64)
        state = (state ^ word) + GOLDEN
        state = (state ^ (state >> np.uint64(30))) * FIRST
        state = (state ^ (state >> np.uint64(27))) * SECOND
        state = state ^ (state >> np.uint64(31))
    return state


def sample_keys(seed: int, step: int, samples: Words) -> Words:
    """The keys of these samples (numbers in the epoch) of optimizer step `step`."""
    return mix(SAMPLE, seed, step, samples)


def sample_key(seed: int, step: int, sample: int) -> int:
    """The key of one sample of one step, from which all of its randomness comes."""
    return int(mix(SAMPLE, seed, step, sample)[0])


def uniform(keys: int | Words, purpose: int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1) with 53 bits, one a key."""
    return (mix(keys, purpose) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def generator(key: int) -> torch.Generator:
    """A CPU generator for a sample's tensors (noise, timestep …).

    torch seeds its CPU engine (mt19937) by a seed's low 32 bits only; the key is mixed, so those are uniform.
    """
    return torch.Generator("cpu").manual_seed(int(mix(key, NOISE)[0]))
