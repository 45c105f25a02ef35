"""Scores against slow, obvious ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.finetuning.judging import metrics
from pipeline.finetuning.tasks import TASKS
from pipeline.finetuning.tasks.bio import best_labels


def test_classification():
    truth, found = ["0", "1", "1", "0", "1"], ["0", "1", "0", "1", "1"]
    scores = metrics.classification(truth, found)
    assert scores == {
        "accuracy": pytest.approx(3 / 5),
        "f1": pytest.approx(2 / 3),
        "f1_macro": pytest.approx((2 / 3 + 1 / 2) / 2),
        "matthews": pytest.approx((2 * 1 - 1 * 1) / (3 * 3 * 2 * 2) ** 0.5),
        "f1_0": pytest.approx(1 / 2),
        "f1_1": pytest.approx(2 / 3),
    }
    three = metrics.classification(["a", "b", "c", "c"], ["a", "b", "b", "c"])
    assert three["f1"] == three["f1_macro"] == pytest.approx((1 + 2 / 3 + 2 / 3) / 3)
    # The label that is greater counts as the positive one.
    numbers = metrics.classification(["9", "10", "10", "10"], ["9", "10", "9", "10"])
    assert numbers["f1"] == numbers["f1_10"] == pytest.approx(0.8)
    macro = metrics.classification(["macro", "a", "b", "b"], ["a", "a", "b", "b"])
    assert (macro["f1_macro"], macro["f1_label_macro"]) == (pytest.approx(5 / 9), 0.0)
    same = metrics.classification(["1", "1"], ["1", "1"])
    assert (same["accuracy"], same["f1"]) == (1.0, 1.0)


def test_the_labels_of_a_head_say_what_f1_is_where_one_does_not_occur():
    negative = metrics.classification(["0", "0"], ["0", "0"], ["0", "1"])
    assert (negative["accuracy"], negative["f1"], negative["f1_0"]) == (1.0, 0.0, 1.0)
    three = metrics.classification(["a", "a", "b", "b"], ["a", "b", "b", "b"], ["a", "b", "c"])
    assert three["f1"] == three["f1_macro"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    task = TASKS["pair"]
    examples, found = [{"label": "a"}, {"label": "b"}], [{"label": "a"}, {"label": "a"}]
    assert task.scores(examples, found, ["a", "b", "c"])["f1"] == pytest.approx((2 / 3 + 0) / 2)


def test_regression():
    scores = metrics.regression([1.0, 2.0, 3.0, 4.0], [1.0, 4.0, 9.0, 16.0])
    assert scores["spearman"] == pytest.approx(1)
    assert scores["pearson"] == pytest.approx(np.corrcoef([1, 2, 3, 4], [1, 4, 9, 16])[0, 1])
    assert metrics.regression([1.0, 2.0], [3.0, 3.0]) == {"spearman": 0.0, "pearson": 0.0}


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40))
def test_calibration_error(pairs):
    expected = 0.0
    for place in range(10):
        inside = [(p, r) for p, r in pairs if min(int(p * 10), 9) == place]
        if inside:
            distance = np.mean([p for p, _ in inside]) - np.mean([r for _, r in inside])
            expected += len(inside) / len(pairs) * abs(distance)
    found = metrics.calibration_error(metrics.calibration_bins(pairs))
    assert found == pytest.approx(expected, abs=1e-9)


LABELS = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]


def chunks(labels):
    """(sentence, start, stop, type) of valid BIO labels."""
    found = set()
    for number, sentence in enumerate(labels):
        for start, label in enumerate(sentence):
            if label[0] == "B":
                stop = start + 1
                while stop < len(sentence) and sentence[stop] == f"I-{label[2:]}":
                    stop += 1
                found.add((number, start, stop, label[2:]))
    return found


@st.composite
def label_pairs(draw):
    def valid(length):
        scores = draw(arrays(np.float64, (length, 5), elements=st.floats(-1, 0)))
        return [LABELS[i] for i in best_labels(scores, LABELS)]

    lengths = draw(st.lists(st.integers(1, 8), min_size=1, max_size=5))
    return [valid(length) for length in lengths], [valid(length) for length in lengths]


@given(label_pairs())
def test_entity_scores_are_those_of_exact_chunks(pair):
    truth, found = map(chunks, pair)
    scores = metrics.entities(*pair)
    hits = len(truth & found)
    assert scores["precision"] == pytest.approx(hits / len(found) if found else 0)
    assert scores["recall"] == pytest.approx(hits / len(truth) if truth else 0)
    assert scores["f1"] == pytest.approx(2 * hits / max(1, len(truth) + len(found)))


def cmrc_f1(answer, text):
    """CMRC's definition, character by character, for texts of Han characters alone."""
    marks = "，。：？！“”"
    a, b = ([c for c in each if c not in marks] for each in (answer, text))
    common = max(
        (
            k
            for i in range(len(a))
            for j in range(len(b))
            for k in range(1, min(len(a) - i, len(b) - j) + 1)
            if a[i : i + k] == b[j : j + k]
        ),
        default=0,
    )
    if not common:
        return 0
    precision, recall = common / len(b), common / len(a)
    return 2 * precision * recall / (precision + recall)


TEXT = st.text("北京上海，。", max_size=10)


ANSWERS = st.lists(TEXT.filter(bool), min_size=1, max_size=3)


@given(st.lists(st.tuples(ANSWERS, TEXT), min_size=1, max_size=5))
def test_span_scores_are_cmrcs(pairs):
    truth, found = zip(*pairs, strict=True)
    scores = metrics.spans(truth, found)
    expected = [max(cmrc_f1(answer, text) for answer in answers) for answers, text in pairs]
    assert scores["f1"] == pytest.approx(sum(expected) / len(pairs))
    assert 0 <= scores["exact_match"] <= 1


@pytest.mark.parametrize(
    ("answer", "text", "f1", "exact"),
    [
        ("《北京》。", "北京", 1, 1),
        ("ABC公司", "abc公司", 1, 1),
        ("1.5米", "15米", 0.5, 0),
        ("1,000元", "1,000元", 1, 1),
        ("new york", "york", 2 / 3, 0),
        ("北京", "", 0, 0),
    ],
)
def test_span_units(answer, text, f1, exact):
    assert metrics.spans([[answer]], [text]) == {"f1": pytest.approx(f1), "exact_match": exact}
