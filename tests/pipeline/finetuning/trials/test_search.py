"""What the scores of the trials of a grid say together."""

import statistics

from pipeline.finetuning.trials.search import Outcome, Score, best_point, kept, score


def outcome(lr, seed, dev, test=None, error=""):
    return Outcome(lr, 8, seed, {"f1": dev}, {"f1": test} if test else {}, error)


def test_the_best_point_is_that_with_the_best_mean():
    lucky = [outcome(1.0, seed, dev) for seed, dev in ((1, 0.2), (2, 0.99), (3, 0.3))]
    steady = [outcome(2.0, seed, dev, dev + 0.1) for seed, dev in ((1, 0.6), (2, 0.7), (3, 0.5))]
    failed = [outcome(3.0, 1, 1.0), outcome(3.0, 2, 0.0, error="loss")]
    assert best_point([*lucky, *steady, *failed], "f1") == steady
    assert kept(steady, "f1").seed == 1
    assert kept(steady[:2], "f1").seed == 1  # the lower of two
    name, found = score(steady, "f1")
    assert name == "test"
    tests = [each.test["f1"] for each in steady]
    assert found == Score(statistics.mean(tests), statistics.stdev(tests))
    assert score(lucky, "f1")[0] == "dev"
    assert best_point(failed, "f1") == []


def test_scores_are_shown_in_per_cent():
    assert str(Score.of([0.5])) == "50.0"
    assert str(Score.of([0.5, 0.6])) == "55.0 ± 7.1"
