"""`duplicates.jsonl`: every document that is dropped, with the one that is kept in its place."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

FILE = "duplicates.jsonl"


def report_lines(
    first_documents: Sequence[int],
    marks: NDArray[np.uint8],
    reasons: Sequence[str],
    kept_by: NDArray[np.int64],
    places_of: Callable[[int], list[str]],
) -> bytes:
    """The report as JSON lines with `source`, `reason` and `kept`.

    Args:
        first_documents: number of each chunk's first document, ascending.
        marks: [D] for each document, 0 if it is kept, else an index into `reasons`.
        reasons: why documents are dropped, by mark.
        kept_by: [D] the document that is kept instead.
        places_of: where the documents of a chunk stand. Called only if the report names one.
    """
    dropped = marks > 0
    heads = np.unique(kept_by[dropped])
    kept: dict[int, str] = {}
    lines = []
    for chunk, (first, end) in enumerate(
        zip(first_documents, [*first_documents[1:], len(dropped)], strict=True)
    ):
        heads_here = heads[(heads >= first) & (heads < end)]
        dropped_here = np.flatnonzero(dropped[first:end]) + first
        if not len(heads_here) and not len(dropped_here):
            continue
        places = places_of(chunk)
        # A document that is kept stands before all that it replaces.
        kept.update((head, places[head - first]) for head in heads_here.tolist())
        lines += [
            {
                "source": places[number - first],
                "reason": reasons[marks[number]],
                "kept": kept[int(kept_by[number])],
            }
            for number in dropped_here.tolist()
        ]
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
