"""Product reviews to a sentiment set."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from typing import Any

from pipeline.errors import CorpusError
from pipeline.sample.month import FULL_WIDTH


def split_reviews(
    positive: Sequence[str], negative: Sequence[str], evaluated: int, seed: int = 0
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Train, dev and test reviews, half positive, half negative; dev and test have `evaluated`.

    The files repeat half of their lines. Reviews whose first 30 letters agree count as one, so that
    none is on two sides; those found in both files, or of fewer than 4 letters, are left out.
    """
    classes = [_distinct(negative), _distinct(positive)]
    shared = classes[0].keys() & classes[1].keys()
    draw = random.Random(seed)
    pools = []
    for texts in classes:
        pool = [text for key, text in texts.items() if key not in shared]
        draw.shuffle(pool)
        pools.append(pool)
    size, half = min(map(len, pools)), evaluated // 2
    if size <= 2 * half:
        raise CorpusError(f"only {size} distinct reviews of a kind: {2 * half} go to dev and test")
    splits = []
    for part in (slice(2 * half, size), slice(half), slice(half, 2 * half)):
        rows = [{"text": text, "label": i} for i, pool in enumerate(pools) for text in pool[part]]
        draw.shuffle(rows)
        splits.append(rows)
    return splits[0], splits[1], splits[2]


def _distinct(lines: Iterable[str]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for line in lines:
        key = re.sub(r"[\W_]+", "", line).lower()
        if len(key) >= 4:
            texts.setdefault(key[:30], line.strip().translate(FULL_WIDTH))
    return texts
