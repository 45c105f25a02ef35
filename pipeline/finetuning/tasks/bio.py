"""BIO labels: from other schemes, the best valid sequence, and the entities that it contains."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import TaskError

GOES_ON = frozenset("BIM")
"""Letters after which an entity may go on."""
BEGINS = frozenset("BSUW")
"""Letters that always begin an entity."""


def to_bio(labels: Sequence[str]) -> list[str]:
    """BIO labels (IOB2) of the same entities, whatever the scheme.

    As in conlleval, a label that cannot go on from the one before it begins an entity: so does I-
    in IOB1 (Ramshaw and Marcus 1995). E-, L-, M- and S-, U-, W- are those of BIOES, BILOU (Ratinov
    and Roth 2009) and BMES.
    """
    found = []
    for before, now in itertools.pairwise(["O", *labels]):
        begins = now[0] in BEGINS or before[0] not in GOES_ON or before[2:] != now[2:]
        found.append("O" if now == "O" else f"{'B' if begins else 'I'}-{now[2:]}")
    return found


class EntitySpan(NamedTuple):
    """Where an entity stands, as a file says it."""

    start: Any
    end: Any
    """Its characters are [start, end), or [start, end] where its text shows it."""
    kind: Any
    text: Any = None
    """What stands there; None if the file does not say it."""


def labels_of_places(places: Iterable[EntitySpan], text: str) -> tuple[list[str], int]:
    """BIO labels of the characters of a text for its outermost entities, and how many lie in them.

    Raises TaskError where an entity does not lie in the text, other characters stand there than
    the file says, or two entities share characters and none lies in the other.
    """
    found = []
    for start, end, kind, given in places:
        if type(start) is not int or type(end) is not int or not isinstance(kind, str):
            raise TaskError(
                f"an entity from {start!r} to {end!r} of type {kind!r}; expected two whole numbers "
                "and a name"
            )
        if given is not None and text[start:end] != given == text[start : end + 1]:
            end += 1
        if not 0 <= start < end <= len(text):
            raise TaskError(f"the entity from {start} to {end} does not lie in the text")
        if given is not None and text[start:end] != given:
            other = text.find(str(given))
            raise TaskError(
                f"the entity {given!r} does not stand from character {start} to {end}, where the "
                f"text reads {text[start:end]!r}"
                + (f"; it stands at character {other}" if other >= 0 else "")
            )
        found.append((start, end, kind))
    labels, nested, last = ["O"] * len(text), 0, 0
    for start, end, kind in sorted(found, key=lambda each: (each[0], -each[1])):
        if end <= last:
            nested += 1
            continue
        if start < last:
            raise TaskError(f"the entity from {start} to {end} shares characters with another one")
        labels[start:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - start - 1)]
        last = end
    return labels, nested


def best_labels(scores: NDArray[np.floating], labels: Sequence[str]) -> list[int]:
    """The valid sequence with the highest sum of scores (Viterbi); I-X is valid after B-X or I-X.

    Args:
        scores: [S, K] log probabilities.
        labels: names of the K labels.

    Returns:
        S label numbers.
    """
    types = [label.partition("-")[2] for label in labels]
    inside = np.array([label.startswith("I-") for label in labels])
    # Of each I-X, the labels that may stand before it: B-X and I-X. Others may follow any label.
    of_type: dict[str, list[int]] = {}
    for number, kind in enumerate(types):
        of_type.setdefault(kind, []).append(number)
    before = [of_type[types[number]] for number in np.flatnonzero(inside)]
    widest = max(map(len, before), default=1)
    allowed = np.array([(own * widest)[:widest] for own in before], np.int64).reshape(-1, widest)
    if len(scores) == 0:
        return []
    total = np.where(inside, -np.inf, scores[0])
    back = np.zeros(scores.shape, np.int64)
    for place in range(1, len(scores)):
        back[place] = total.argmax()
        back[place, inside] = allowed[np.arange(len(allowed)), total[allowed].argmax(axis=1)]
        total = total[back[place]] + scores[place]
    chosen = [int(total.argmax())]
    for place in range(len(scores) - 1, 0, -1):
        chosen.append(int(back[place, chosen[-1]]))
    return chosen[::-1]


def entities_of(
    words: Sequence[str], labels: Sequence[str], shares: Sequence[float] | NDArray[np.floating]
) -> list[dict[str, Any]]:
    """Entities of a valid BIO sequence: `text`, `type`, `start` and `end` in the joined words.

    `probability` is the mean of `shares`, the probabilities of the labels, over the entity's words;
    NaN, as of a word that gives no token, is left out.
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
        entity["probability"] = float(np.nanmean(each))
    return found


def without_invisible(labels: Sequence[str], visible: Sequence[bool]) -> list[str]:
    """BIO labels of the same entities, which begin and end with a visible word.

    Invisible words inside an entity keep their label. An entity without a visible word is O.
    """
    found = ["O"] * len(labels)
    last = -1
    for place, label in enumerate(labels):
        if label.startswith("B-"):
            last = -1
        if label == "O" or not visible[place]:
            continue
        kind = label[2:]
        if last < 0:
            found[place] = f"B-{kind}"
        else:
            found[last + 1 : place + 1] = [f"I-{kind}"] * (place - last)
        last = place
    return found


def with_invisible(labels: Sequence[str], visible: Sequence[bool]) -> list[str]:
    """Labels of all words from those of the visible ones: what stands inside an entity is of it."""
    found, remaining, waiting = [], iter(labels), 0
    for seen in visible:
        if not seen:
            waiting += 1
            continue
        label = next(remaining)
        found += [label if label.startswith("I-") else "O"] * waiting + [label]
        waiting = 0
    return found + ["O"] * waiting
