"""Random numbers as pure functions of a key and a counter (splitmix64, Steele et al. 2014).

A number depends only on its key and counter, not on the worker that computes it or on the numbers
that were computed before.
"""

import numpy as np
from numpy.typing import NDArray

UINT64 = NDArray[np.uint64]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(values: UINT64) -> UINT64:
    """A bijection of 64-bit numbers that scatters them (splitmix64's finalizer)."""
    mixed = values >> np.uint64(30)
    mixed ^= values
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def draw(keys: UINT64, counters: NDArray[np.integer]) -> UINT64:
    """[N] random 64-bit numbers: number `counters[i]` of the splitmix64 stream `keys[i]`."""
    state = counters.astype(np.uint64)
    state *= _GOLDEN
    state += keys
    state += _GOLDEN
    return mix(state)


def key_of(*numbers: int) -> np.uint64:
    """One stream key for a tuple of integers."""
    key = np.zeros(1, np.uint64)
    for number in numbers:
        key = mix(draw(key, np.array([number & 0xFFFFFFFFFFFFFFFF], np.uint64)))
    return key[0]
