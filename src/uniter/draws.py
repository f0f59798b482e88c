"""Everything random as a pure function of (seed, purpose, index): no state to save, no order to keep.

A draw depends on nothing but its arguments: not on the batch it is made in, the process it is made by or the draws
before it. Hence resumed, elastic and re-batched runs see the same numbers. The mixing function is SplitMix64's
finaliser.
"""

import hashlib
from functools import lru_cache

import numpy as np

_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@lru_cache(maxsize=1024)
def _key(seed: int, purpose: str) -> np.uint64:
    digest = hashlib.blake2b(f"{seed}:{purpose}".encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))


def _mix(bits: np.ndarray) -> np.ndarray:
    bits = (bits ^ (bits >> np.uint64(30))) * _MIX_1
    bits = (bits ^ (bits >> np.uint64(27))) * _MIX_2
    return bits ^ (bits >> np.uint64(31))


def bits(seed: int, purpose: str, *index) -> np.ndarray:
    """64 random bits for each index.

    Args:
        seed: the seed of the run.
        purpose: what the draw is for ("mlm-choose", "order", ...); different purposes are independent.
        index: integers or integer arrays, broadcast against each other.

    Returns:
        uint64 array of the broadcast shape.
    """
    with np.errstate(over="ignore"):
        state = np.asarray(_key(int(seed), purpose), dtype=np.uint64)
        for part in index:
            state = _mix((state + _GOLDEN) ^ _mix(np.asarray(part).astype(np.int64).view(np.uint64) + _GOLDEN))
        return _mix(state + _GOLDEN)


def uniform(seed: int, purpose: str, *index) -> np.ndarray:
    """Uniform float64 in [0, 1) for each index; arguments as in `bits`."""
    return (bits(seed, purpose, *index) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def integers(seed: int, purpose: str, high, *index) -> np.ndarray:
    """Uniform int64 in [0, high) for each index; `high` is an integer or an array that broadcasts with the indices."""
    return np.floor(uniform(seed, purpose, *index) * np.asarray(high)).astype(np.int64)


def permutation(seed: int, purpose: str, length: int, *index: int) -> np.ndarray:
    """A random order of 0..length-1 (int64) for one index."""
    return np.argsort(bits(seed, purpose, *index, np.arange(length)), kind="stable").astype(np.int64)


def number(seed: int, purpose: str, *index: int) -> int:
    """One non-negative 63-bit integer, to seed another library's generator."""
    return int(bits(seed, purpose, *index) >> np.uint64(1))


def generator(seed: int, purpose: str, *index: int) -> np.random.Generator:
    """A NumPy generator of its own for one index, where many dependent draws are needed."""
    return np.random.Generator(np.random.Philox(key=number(seed, purpose, *index)))
