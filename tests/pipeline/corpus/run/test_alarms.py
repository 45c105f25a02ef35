"""A corpus on which training would go wrong is refused, or warned of."""

import numpy as np
import pytest

from pipeline.corpus.run import alarms
from pipeline.corpus.run.alarms import check_unknown
from pipeline.corpus.samples.measuring import LONGEST_WORD, MEASURED_SAMPLES, measure
from pipeline.corpus.samples.pairs import build_pairs
from pipeline.corpus.shards.format import read_manifest
from pipeline.errors import CorpusError
from pipeline.settings.corpus import CorpusSettings, MaskingSettings, PairSettings
from tests.pipeline.corpus import raw
from tests.pipeline.corpus.made import VOCABULARY, random_text
from tests.pipeline.corpus.preparing import run
from tests.pipeline.corpus.raw import write_texts
from tests.reported import Lines

WORDS_OF_TWO = {
    "continued": 500,
    "other": 500,
    "measured": 1000,
    "without_words": 0,
    "tokens": 100_000,
    "masked_tokens": 15_000,
    **{f"words_{size}": 50_000 * (size == 2) for size in range(1, LONGEST_WORD + 1)},
    **{f"masked_words_{size}": 7_500 * (size == 2) for size in range(1, LONGEST_WORD + 1)},
}


def judge(unknown=0, settings=None, **changes):
    measured = WORDS_OF_TWO | changes
    return alarms.judge_corpus(100_000, unknown, measured, settings or CorpusSettings())


def test_an_ordinary_corpus_has_no_warning():
    found = judge(unknown=400, other=600, continued=400)
    assert found.warnings == ()
    assert found.shares == {
        "unknown_tokens": 0.004,
        "random_pairs": 0.6,
        "samples_without_words": 0.0,
        "masked_tokens": 0.15,
    }
    assert found.mask_rates == {"2": 0.15}
    assert len(alarms.lines(found.shares, found.mask_rates)) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unknown": 3000}, "3.0% of the tokens are [UNK]"),
        ({"without_words": 20}, "2.0% of the samples have no word"),
        ({"other": 800, "continued": 200}, "80% of the second segments are random"),
        ({"other": 100, "continued": 900}, "10% of the second segments are random"),
        ({"other": 0, "continued": 900}, "no second segment is random"),
        ({"other": 12, "continued": 0}, "all second segments are random"),
        ({"masked_tokens": 9_500}, "9.5% of the tokens are masked"),
        ({"words_8": 2_000, "masked_words_8": 150}, "words of 8 tokens are masked in 7.5%"),
    ],
)
def test_each_bound_has_a_warning(changes, message):
    (warning,) = judge(**changes).warnings
    assert message in warning


def test_chance_is_no_warning():
    few = {"other": 4, "continued": 1, "words_8": 3, "masked_words_8": 2}
    assert judge(**few).warnings == ()


def test_settings_decide_what_is_usual():
    sop = CorpusSettings(pairs={"task": "sop", "random_share": 0.2})
    assert "swapped" in judge(settings=sop).warnings[0]
    alone = CorpusSettings(pairs={"task": "none"})
    assert "random_pairs" not in judge(settings=alone, other=0, continued=0).shares
    no_random = CorpusSettings(pairs={"random_share": 0.0})
    assert judge(settings=no_random, other=0).warnings == ()
    all_random = CorpusSettings(pairs={"random_share": 1.0})
    assert judge(settings=all_random, continued=0).warnings == ()
    limit = CorpusSettings(masking={"max_predictions": 7})
    assert "max_predictions is 7" in judge(settings=limit, masked_tokens=5000).warnings[0]
    rare = {"words_8": 2_000, "masked_words_8": 150}
    assert "max_predictions is 7, which leaves" in judge(settings=limit, **rare).warnings[0]
    assert "max_predictions" not in judge(**rare).warnings[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unknown": 60_000}, r"60% of the tokens are \[UNK\]"),
        ({"without_words": 600}, "60% of the samples have no word"),
        ({"masked_tokens": 0}, r"no token of the 1,000 sample\(s\) is masked"),
    ],
)
def test_what_training_cannot_work_on_is_refused(changes, message):
    with pytest.raises(CorpusError, match=message):
        judge(**changes)


def test_masks_that_are_drawn_while_training_may_be_none_at_first():
    dynamic = CorpusSettings(masking={"mode": "dynamic"})
    assert judge(settings=dynamic, masked_tokens=0).shares["masked_tokens"] == 0


def test_a_vocabulary_of_another_language_is_refused(source, tmp_path):
    other = tmp_path / "english.txt"
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    other.write_text("\n".join([*specials, "the", "a", "of", "，", "。"]) + "\n", "utf-8")
    with pytest.raises(CorpusError, match=r"of the tokens are \[UNK\].*corpus\.vocab"):
        run(source, tmp_path / "out", other)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_document_per_line_of_a_text_file_is_warned_of(vocab, tmp_path):
    lines = "\n".join(text.replace("\n", "") for text in write_texts(60)) + "\n"
    told = Lines()
    out = tmp_path / "out"
    manifest = run(raw.write(tmp_path / "docs.txt", lines.encode()), out, vocab, progress=told)
    (warning,) = manifest.warnings
    assert "no second segment is random" in warning
    assert f"warning: {warning}" in told
    again = Lines()
    run(tmp_path / "docs.txt", out, vocab, progress=again)
    assert f"warning: {warning}" in again


def test_documents_of_one_sentence_are_warned_of(vocab, tmp_path):
    texts = [text.replace("\n", "").split("。")[0] + "。" for text in write_texts(2000)]
    source = raw.write(tmp_path / "a.jsonl", raw.jsonl(texts))
    manifest = run(source, tmp_path / "out", vocab, cleaning={"min_characters": 0})
    assert manifest.shares["random_pairs"] > 0.9
    assert any("join short documents" in warning for warning in manifest.warnings)


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_shares_and_rates_stand_in_the_manifest(source, vocab, tmp_path, mode):
    run(source, tmp_path / "out", vocab, masking={"mode": mode})
    manifest = read_manifest(tmp_path / "out")
    assert manifest.shares["masked_tokens"] == pytest.approx(0.15, rel=0.1)
    assert set(manifest.mask_rates) >= {"1", "2", "3"}
    assert manifest.warnings == ()


def test_what_is_measured_is_what_the_shards_hold():
    pairs = build_pairs(random_text(3, 900), PairSettings(), 64, 2, 3, 0)
    assert len(pairs.documents) > MEASURED_SAMPLES
    found = measure(pairs, MaskingSettings(), VOCABULARY, 5)
    assert found["measured"] == MEASURED_SAMPLES
    assert found["continued"] + found["other"] + np.count_nonzero(
        pairs.next_sentence_label == 255
    ) == len(pairs.documents)
    assert (
        sum(found[f"masked_words_{size}"] * size for size in range(1, 9))
        == (found["masked_tokens"])
    )


def test_samples_without_a_word_to_mask_are_counted():
    pairs = build_pairs(random_text(3, 20), PairSettings(), 64, 2, 3, 0)
    unknown = pairs._replace(input_ids=np.where(pairs.input_ids > 4, 1, pairs.input_ids))
    found = measure(unknown, MaskingSettings(), VOCABULARY, 5)
    assert found["without_words"] == found["measured"] == len(pairs.documents)
    assert found["masked_tokens"] == 0


def test_a_vocabulary_of_another_script_is_an_error_long_before_the_end():
    check_unknown(900_000, 900_000, ended=False)
    check_unknown(2_000_000, 1_500_000, ended=False)
    with pytest.raises(CorpusError, match=r"95% of the tokens so far are \[UNK\]"):
        check_unknown(2_000_000, 1_900_000, ended=False)
    with pytest.raises(CorpusError, match=r"60% of the tokens are \[UNK\]"):
        check_unknown(100, 60, ended=True)
