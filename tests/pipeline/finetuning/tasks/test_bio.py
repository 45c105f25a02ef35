"""Viterbi against all sequences, and entities against their labels."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.finetuning.tasks.bio import (
    best_labels,
    entities_of,
    to_bio,
    with_invisible,
    without_invisible,
)

LABELS = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]


def is_valid(labels):
    return all(
        label[0] != "I" or before[2:] == label[2:]
        for before, label in itertools.pairwise(["O", *labels])
    )


@given(
    st.integers(1, 4).flatmap(
        lambda n: arrays(np.float32, (n, 5), elements=st.floats(-9, 0, width=32))
    )
)
def test_the_best_of_all_valid_sequences(scores):
    chosen = best_labels(scores, LABELS)
    assert is_valid([LABELS[i] for i in chosen])
    best = max(
        sum(float(scores[place, i]) for place, i in enumerate(numbers))
        for numbers in itertools.product(range(5), repeat=len(scores))
        if is_valid([LABELS[i] for i in numbers])
    )
    assert sum(float(scores[place, i]) for place, i in enumerate(chosen)) == pytest.approx(best)


def test_no_words_no_labels():
    assert best_labels(np.empty((0, 5)), LABELS) == []


def test_entities_name_their_place_in_the_text():
    words = ["王", "明", "李", "华", "在", "New York"]
    labels = ["B-PER", "I-PER", "B-PER", "I-PER", "O", "B-LOC"]
    found = entities_of(words, labels, [0.5, 1.0, 1.0, 1.0, 0.1, 0.25])
    text = "".join(words)
    assert [(e["text"], e["type"], e["probability"]) for e in found] == [
        ("王明", "PER", 0.75),
        ("李华", "PER", 1.0),
        ("New York", "LOC", 0.25),
    ]
    assert all(text[e["start"] : e["end"]] == e["text"] for e in found)


ENTITIES = st.lists(st.tuples(st.integers(1, 4), st.sampled_from(["O", "PER", "LOC"])), max_size=8)
"""Length and type of what follows each other; O is no entity."""


def written(parts, scheme):
    """Labels of a scheme, made from what they mean."""
    labels, before = [], "O"
    for length, kind in parts:
        if kind == "O":
            labels += ["O"] * length
        elif scheme == "IOB1":
            labels += ["B" if before == kind else "I", *"I" * (length - 1)]
        elif scheme == "IOB2":
            labels += ["B", *"I" * (length - 1)]
        elif scheme == "BIOS":
            labels += ["S"] if length == 1 else ["B", *"I" * (length - 1)]
        else:
            single, begin, inside, end = {"BIOES": "SBIE", "BILOU": "UBIL", "BMES": "SBME"}[scheme]
            labels += [single] if length == 1 else [begin, *inside * (length - 2), end]
        labels = [each if "-" in each or each == "O" else f"{each}-{kind}" for each in labels]
        before = kind
    return labels


@given(ENTITIES)
@pytest.mark.parametrize("scheme", ["IOB1", "IOB2", "BIOES", "BILOU", "BMES", "BIOS"])
def test_every_scheme_becomes_bio(scheme, parts):
    assert to_bio(written(parts, scheme)) == written(parts, "IOB2")


def test_an_entity_that_begins_with_i_is_one_entity():
    assert to_bio(["O", "I-PER", "I-PER", "I-LOC"]) == ["O", "B-PER", "I-PER", "B-LOC"]


@given(ENTITIES, st.randoms(use_true_random=False))
def test_invisible_words_inside_entities_belong_to_them(parts, draw):
    labels = written(parts, "IOB2")
    visible = [draw.random() < 0.6 for _ in labels]
    reduced = without_invisible(labels, visible)
    assert is_valid(reduced)
    seen = [label for label, there in zip(reduced, visible, strict=True) if there]
    assert is_valid(seen)
    assert with_invisible(seen, visible) == reduced
    for label, before, there in zip(reduced, labels, visible, strict=True):
        assert not there or label[2:] == before[2:]


def test_an_entity_keeps_its_inner_space():
    labels = ["O", "B-PER", "I-PER", "I-PER", "O"]
    assert without_invisible(labels, [True, True, False, True, True]) == labels
    assert without_invisible(labels, [True, False, True, False, True]) == [
        *("O", "O", "B-PER", "O", "O")
    ]
