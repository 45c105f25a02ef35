"""The position table as waves of the signed distance times a small matrix.

Inside the clip distance k, row d + k of the table is a sum of sines and cosines of d, so that

    T[d + k] = [sin(d·f_1) … sin(d·f_R), cos(d·f_1) … cos(d·f_R)] · M        |d| ≤ k

with fewer frequencies than the table has. A product with row j - i then turns into one with
sin(j·f), cos(j·f) after a rotation of the other operand by i·f, which is what lets a tiled kernel
add positions by ordinary matrix products (addition theorems; for an unclipped table see
Funnel-Transformer, https://arxiv.org/abs/2006.03236, appendix A.2.2).
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

TOLERANCE = 1e-9
"""Largest difference of an entry of the table; entries are at most 1."""
NARROWEST = 16
"""Fewest frequencies: the shortest inner dimension of a matrix product on tensor cores."""


class TableFactors(NamedTuple):
    """R frequencies and the matrix for a head size D."""

    frequencies: Matrix
    """[R] radians a position, R a power of two of 16 or more"""
    sine: Matrix
    """[R, D] the upper half of M"""
    cosine: Matrix
    """[R, D] the lower half of M"""
    ends: Matrix
    """[2, D] the rows of the table for distances beyond -k and beyond k"""


@lru_cache
def table_factors(head_size: int, clip: int) -> TableFactors:
    """The fewest factors of `position_table(head_size, clip)`, computed in float64.

    All frequencies of the table reproduce it exactly. A few evenly spaced ones span the same
    functions as all the low frequencies, which turn little within the clip distance.
    """
    own = 10000.0 ** (-np.arange(0, head_size, 2) / head_size)
    angles = np.arange(2 * clip + 1)[:, None] * own
    table = np.stack([np.sin(angles), np.cos(angles)], -1).reshape(2 * clip + 1, head_size)
    width = NARROWEST
    while width < len(own):
        for kept in range(width - 1, 0, -1):
            low = np.linspace(1 / (4 * max(clip, 1)), 0.7 * own[kept - 1], width - kept)
            found = _fit(np.concatenate([own[:kept], low]), table)
            if found:
                return found
        width *= 2
    found = _fit(np.pad(own, (0, width - len(own))), table)
    if not found:
        raise ArithmeticError(f"head size {head_size}, clip {clip}: no factors of the table found")
    return found


def _fit(frequencies: Matrix, table: Matrix) -> TableFactors | None:
    """M by least squares; None where the table is not reproduced."""
    clip, width = len(table) // 2, len(frequencies)
    waves = np.arange(-clip, clip + 1)[:, None] * frequencies
    waves = np.concatenate([np.sin(waves), np.cos(waves)], 1)
    matrix: Matrix = np.linalg.lstsq(waves, table, rcond=None)[0].astype(np.float64)
    if np.abs(waves @ matrix - table).max() > TOLERANCE:
        return None
    return TableFactors(frequencies, matrix[:width], matrix[width:], table[[0, -1]])
