"""BIO labels: the best valid sequence, and the entities that it contains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def best_labels(scores: NDArray[np.floating], labels: Sequence[str]) -> list[int]:
    """The valid sequence with the highest sum of scores (Viterbi); I-X is valid after B-X or I-X.

    Args:
        scores: [S, K] log probabilities.
        labels: names of the K labels.

    Returns:
        S label numbers.
    """
    types = [label.partition("-")[2] for label in labels]
    forbidden = np.array(
        [
            [
                label.startswith("I-") and kind != before
                for label, kind in zip(labels, types, strict=True)
            ]
            for before in types
        ]
    )
    first = np.array([label.startswith("I-") for label in labels])
    if len(scores) == 0:
        return []
    total = np.where(first, -np.inf, scores[0])
    steps = np.where(forbidden, -np.inf, 0.0)
    back = np.zeros(scores.shape, np.int64)
    for place in range(1, len(scores)):
        paths = total[:, None] + steps
        back[place] = paths.argmax(axis=0)
        total = paths.max(axis=0) + scores[place]
    chosen = [int(total.argmax())]
    for place in range(len(scores) - 1, 0, -1):
        chosen.append(int(back[place, chosen[-1]]))
    return chosen[::-1]


def entities_of(
    words: Sequence[str], labels: Sequence[str], shares: Sequence[float] | NDArray[np.floating]
) -> list[dict[str, Any]]:
    """Entities of a valid BIO sequence: `text`, `type`, `start` and `end` in the joined words.

    `probability` is the mean of `shares`, the probabilities of the labels, over the entity's words.
    """
    found: list[dict[str, Any]] = []
    members: list[list[float]] = []
    position = 0
    for word, label, share in zip(words, labels, shares, strict=True):
        end = position + len(word)
        if label.startswith("B-"):
            found.append({"text": word, "type": label[2:], "start": position, "end": end})
            members.append([float(share)])
        elif label.startswith("I-"):
            found[-1] |= {"text": found[-1]["text"] + word, "end": end}
            members[-1].append(float(share))
        position = end
    for entity, each in zip(found, members, strict=True):
        entity["probability"] = sum(each) / len(each)
    return found
