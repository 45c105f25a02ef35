"""What a finished run shows of what it has learnt."""

from jobs.output.learnt import curve, marked, score_rows
from pipeline.export.fill_masks import Token


def test_a_curve_falls_from_full_to_low_bars():
    assert curve([3.0, 2.0, 1.0], 3) == "█▅▁"
    assert curve([5.0, 5.0]) == "▁▁"
    assert curve([float(600 - i) for i in range(600)], 60) == "".join(
        sorted(curve(range(600)))[::-1]
    )
    assert len(curve([1.0, 2.0] * 300, 60)) == 60


def test_right_answers_and_wrong_ones_are_told_apart():
    tokens = [
        Token("[CLS]", None),
        Token("北", None),
        Token("京", "京"),
        Token("[SEP]", None),
        Token("市", "的"),
        Token("##ing", "##ed"),
        Token("[SEP]", None),
    ]
    line = marked(tokens)
    assert line.plain == "北[京✓] │ [的→市][ed→ing] │ "
    assert [str(span.style) for span in line.spans] == ["green", "red", "red"]


def test_scores_stand_beside_what_they_are_compared_with():
    rows = score_rows(
        {
            "unigram_loss": 6.5,
            "heldout_mlm_loss": 5.0,
            "heldout_nsp_accuracy": 0.61,
            "ner_f1": {"pretrained": 0.7, "scratch": 0.5},
            "pairs_accuracy": {"pretrained": None, "scratch": None},
        }
    )
    loss = rows["held-out masked-token loss"]
    assert "5.000" in loss
    assert "6.500" in loss
    assert "1.500" in loss
    assert rows["ner f1"] == "pretrained 0.7000, scratch 0.5000"
    assert rows["pairs accuracy"] == "pretrained no test or dev set, scratch no test or dev set"
    nothing = {"unigram_loss": None, "heldout_mlm_loss": None, "heldout_nsp_accuracy": None}
    assert score_rows(nothing) == {}
