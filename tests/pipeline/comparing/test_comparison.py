"""The tables of a comparison, and the published scores."""

from pathlib import Path

import pytest

from pipeline.comparing import compare, comparison, report
from pipeline.comparing.comparison import Judged, Subject
from pipeline.errors import TrainingError
from pipeline.finetuning.examination import Examined
from pipeline.finetuning.trials.trial import Trial, TrialResult, write_predictions
from pipeline.settings.finetuning import FinetuneSettings

EXAMINED = Examined(
    "", {"train": 9, "dev": 4, "test": 0}, [], {"dev": {"accuracy": 0.69}}, False, ""
)


@pytest.mark.parametrize(
    ("layers", "hidden", "model"),
    [(2, 128, "UER Tiny-WWM"), (4, 256, "UER Mini-WWM"), (12, 768, "NEZHA base-WWM")],
)
def test_the_published_encoder_is_the_nearest_in_size(layers, hidden, model):
    found = comparison.published(layers, hidden)
    assert found["model"] == model
    assert found["source"]
    assert 0 < found["scores"]["lcqmc"] < 100


def trial(folder: Path, subject: str, seed: int, right: list[bool]):
    """A trial whose answers are right where `right` says so."""
    folder = folder / f"{subject}-{seed}"
    folder.mkdir()
    examples = [{"text": "x", "label": "1"} for _ in right]
    write_predictions(folder / "dev.jsonl", examples, [{"label": "01"[r]} for r in right])
    settings = FinetuneSettings(task="classification")
    dev = {"accuracy": sum(right) / len(right), "matthews": 0.5}
    result = TrialResult(3e-5, 32, seed, [], dev, {}, 10, 2.0, {})
    return Trial(f"t {subject} {seed}", settings, "", seed, folder, False), result


def test_scores_differences_cost_and_failures(tmp_path):
    subjects = [
        Subject("a", "", False, 2, 128, 100.0),
        Subject("b", "", False, 2, 128, 50.0),
        Subject("c", "", True, 2, 128),
    ]
    answers = {"a": [[1, 1, 1, 0], [1, 1, 0, 0]], "b": [[0, 0, 1, 0], [0, 0, 0, 0]], "c": [[1] * 4]}
    judged, found = [], {}
    for subject in subjects:
        own = [trial(tmp_path, subject.name, s, r) for s, r in enumerate(answers[subject.name])]
        judged.append(Judged("t", subject, EXAMINED, [each for each, _ in own]))
        found |= {each.folder: result for each, result in own}
    found[judged[2].trials[0].folder] = TrainingError("the loss is nan")
    result = comparison.conclude(subjects, judged, found)
    (row,) = result.rows
    assert (row.cells["a"].score.mean, row.cells["b"].score.mean) == (0.625, 0.125)
    assert list(row.differences) == ["b"]
    assert row.differences["b"].mean == 0.5
    assert result.failures == ["t c 0: the loss is nan"]
    assert result.curve() == {"t": [(50.0, 0.125), (100.0, 0.625)]}
    assert result.seconds == 8.0
    scores, differences, others, cost, _ = (table for _, _, table in report.sections(result))
    assert scores[1][2:7] == [
        "9 / 4 dev",
        "69.0 (most frequent label)",
        "62.5 ± 17.7",
        "12.5 ± 17.7",
        "failed",
    ]
    assert differences[1][1].startswith("+50.0 (")
    assert differences[1][1].endswith("(McNemar)")
    assert differences[1][2] == "–"
    assert others[1:] == [["t", "matthews", "50.0", "50.0", "–"]]
    assert cost[1:] == [["t", "4", "4", "0"], ["all", "4", "4", "0"]]
    assert "the loss is nan" in report.to_markdown(result)


def test_a_comparison_whose_trials_all_failed_has_a_report(tmp_path):
    subject = Subject("a", "", False, 2, 128)
    only, _ = trial(tmp_path, "a", 0, [True])
    found = {only.folder: TrainingError("memory ran out")}
    result = comparison.conclude([subject], [Judged("t", subject, EXAMINED, [only])], found)
    files = compare.write_report(result, tmp_path / "run" / "compare")
    assert "memory ran out" in files[0].read_text("utf-8")
