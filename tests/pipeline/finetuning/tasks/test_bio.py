"""Viterbi against all sequences, and entities against their labels."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.finetuning.tasks.bio import best_labels, entities_of

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
