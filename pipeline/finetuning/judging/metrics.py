"""Scores of the tasks, at most 1; the first one of a task chooses the best epoch."""

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import NamedTuple

import numpy as np
from scipy import stats
from seqeval.metrics import classification_report
from seqeval.scheme import IOB2
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from pipeline.finetuning.tasks.cells import in_order

BINS = 10
_HAN = "\u4e00-\u9fa5"
_CMRC_MARKS = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
_LATIN = rf"[^\W{_HAN}]+"
_CMRC_TOKEN = re.compile(rf"[{_HAN}]|{_LATIN}(?:[.,]{_LATIN})*|[^\w\s]")


def classification(
    truth: Sequence[str], found: Sequence[str], labels: Sequence[str] = ()
) -> dict[str, float]:
    """Accuracy, F1, Matthews' correlation, and the F1 of each label as `f1_LABEL` (scikit-learn).

    `f1` is the F1 of the last label if the head has two labels; else it is `f1_macro`, the mean
    over the labels that occur. The F1 of a label that is called `macro` is `f1_label_macro`.

    Args:
        labels: those of the head; empty: those that occur.
    """
    occurring = in_order([*truth, *found])
    labels = labels or occurring
    each = f1_score(truth, found, labels=occurring, average=None, zero_division=0)
    of_label = dict(zip(occurring, map(float, each), strict=True))
    macro = float(np.mean(each))
    scores = {
        "accuracy": float(accuracy_score(truth, found)),
        "f1": of_label.get(labels[-1], 0.0) if len(labels) <= 2 else macro,
        "f1_macro": macro,
        "matthews": float(matthews_corrcoef(truth, found)),
    }
    for label, value in of_label.items():
        taken = f"f1_{label}" in scores
        scores[f"f1_label_{label}" if taken else f"f1_{label}"] = value
    return scores


def accuracy(truth: Sequence[int], found: Sequence[int]) -> dict[str, float]:
    """The share of right answers (scikit-learn)."""
    return {"accuracy": float(accuracy_score(truth, found))}


def regression(truth: Sequence[float], found: Sequence[float]) -> dict[str, float]:
    """Spearman's and Pearson's correlation (scipy); 0 where one side is constant."""
    if len(set(truth)) < 2 or len(set(found)) < 2:
        return {"spearman": 0.0, "pearson": 0.0}
    return {
        "spearman": float(stats.spearmanr(truth, found).statistic),
        "pearson": float(stats.pearsonr(truth, found).statistic),
    }


class Bin(NamedTuple):
    """Answers whose probability lies in one of ten intervals of equal width."""

    number: int
    confidence: float
    """Mean probability of the answers; 0 where there are none."""
    accuracy: float
    """Share of right answers; 0 where there are none."""


def calibration_bins(confidences: Sequence[tuple[float, bool]]) -> list[Bin]:
    """Answers by their probability: [(probability, whether the answer is right)] → ten bins."""
    inside: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
    for probability, right in confidences:
        inside[min(BINS - 1, int(probability * BINS))].append((probability, right))
    bins = []
    for each in inside:
        confidence, accuracy = np.mean(each, axis=0) if each else (0.0, 0.0)
        bins.append(Bin(len(each), float(confidence), float(accuracy)))
    return bins


def calibration_error(bins: Sequence[Bin]) -> float:
    """Expected calibration error: the mean distance of confidence and accuracy over bins.

    Each counts by its share of the answers (Guo et al. 2017, arXiv 1706.04599, equation 3).
    """
    gaps = [each.number * abs(each.accuracy - each.confidence) for each in bins]
    return sum(gaps) / max(1, sum(each.number for each in bins))


def multilabel(truth: Sequence[list[str]], found: Sequence[list[str]]) -> dict[str, float]:
    """Micro F1 over (example, label), and the share of examples with exactly the right labels."""
    pairs = [(set(each), set(own)) for each, own in zip(truth, found, strict=True)]
    right = sum(len(each & own) for each, own in pairs)
    total = sum(len(each) + len(own) for each, own in pairs)
    exact = sum(each == own for each, own in pairs) / len(pairs)
    return {"f1": 2 * right / total if total else 0.0, "exact_match": exact}


def entities(truth: Sequence[list[str]], found: Sequence[list[str]]) -> dict[str, float]:
    """Entity-level micro F1, precision and recall, and F1 by type (strict IOB2, seqeval)."""
    report = classification_report(
        truth, found, mode="strict", scheme=IOB2, output_dict=True, zero_division=0
    )
    micro = report["micro avg"]
    scores = {"f1": micro["f1-score"], "precision": micro["precision"], "recall": micro["recall"]}
    for kind, values in report.items():
        if not kind.endswith(" avg"):
            scores[f"f1_{kind}"] = values["f1-score"]
    return {name: float(value) for name, value in scores.items()}


def spans(truth: Sequence[Sequence[str]], found: Sequence[str]) -> dict[str, float]:
    """Exact match and F1 as CMRC 2018 defines them, the best over the answers of a question.

    F1 compares the longest common sequence of tokens: a Han character, a word or number in another
    script, or a sign. Case and CMRC's list of marks are ignored (arXiv 1810.07366, evaluate.py).
    Where there is no answer, "", both are 1 for no answer and 0 for any other, as SQuAD 2.0 counts
    (arXiv 1806.03822); then F1 is also given of both kinds of questions.
    """
    pairs = list(zip(truth, found, strict=True))
    f1 = [max(_overlap(answer, text) for answer in answers) for answers, text in pairs]
    exact = [any(_bare(answer) == _bare(text) for answer in answers) for answers, text in pairs]
    scores = {"f1": sum(f1) / len(pairs), "exact_match": sum(exact) / len(pairs)}
    if {True, False} == {*(kinds := ["" in answers for answers in truth])}:
        without = [score for score, is_without in zip(f1, kinds, strict=True) if is_without]
        answered = [score for score, is_without in zip(f1, kinds, strict=True) if not is_without]
        scores["f1_with_answer"] = sum(answered) / len(answered)
        scores["f1_without_answer"] = sum(without) / len(without)
    return scores


def _bare(text: str) -> str:
    return "".join(c for c in text.lower().strip() if c not in _CMRC_MARKS)


def _overlap(answer: str, text: str) -> float:
    if not answer:
        return float(not _bare(text))
    expected, given = (_CMRC_TOKEN.findall(_bare(each)) for each in (answer, text))
    common = SequenceMatcher(None, expected, given, autojunk=False).find_longest_match().size
    return 2 * common / (len(expected) + len(given)) if common else 0.0
