"""Verification: a sound corpus passes; each kind of harm is named with its place."""

import numpy as np
import pytest

from pipeline.corpus.samples.masks import whole_word_masks
from pipeline.corpus.samples.pairs import build_pairs
from pipeline.corpus.shards.format import write_manifest
from pipeline.corpus.shards.verify import verify
from pipeline.errors import ShardError
from pipeline.settings.corpus import MaskingSettings, PairSettings
from tests.pipeline.corpus.made import VOCABULARY, make_corpus, random_text, write_corpus

MASKING = MaskingSettings()


def samples(task="nsp"):
    text = random_text(0, 60)
    pairs = build_pairs(text, PairSettings(task=task), 64, 2, 3, 0)
    return pairs, whole_word_masks(pairs, MASKING, VOCABULARY, 0)


def corpus(folder, pairs, masks, masking=MASKING):
    return write_corpus(folder, (pairs, masks), settings={"masking": masking.model_dump()})


@pytest.mark.parametrize("task", ["nsp", "sop", "none"])
@pytest.mark.parametrize("static", [True, False])
def test_a_sound_corpus_has_no_problems(tmp_path, task, static):
    pairs, masks = samples(task)
    manifest = corpus(tmp_path, pairs, masks if static else None)
    checked = verify(str(tmp_path))
    assert checked.problems == []
    assert checked.rows == manifest.rows == len(pairs.documents)
    assert checked.tokens == len(pairs.input_ids)
    assert checked.masked == (len(masks.positions) if static else 0)


def test_corpora_in_object_stores_are_checked_too():
    corpus("memory://verify", *samples())
    assert verify("memory://verify").problems == []


def change(array, place, value):
    changed = array.copy()
    changed[place] = value
    return changed


def test_every_broken_law_is_named_with_its_row(tmp_path):
    pairs, masks = samples()
    row, begin = 5, int(pairs.offsets[5])
    b = begin + int(pairs.segment_b_start[row])
    harms = {
        "[CLS] is first": pairs._replace(input_ids=change(pairs.input_ids, begin, 9)),
        "[SEP] ends each segment": pairs._replace(input_ids=change(pairs.input_ids, b - 1, 9)),
        "no [PAD] and no [MASK]": pairs._replace(input_ids=change(pairs.input_ids, begin + 1, 4)),
        "segments begin with a word": pairs._replace(
            word_starts=change(pairs.word_starts, begin + 1, False)
        ),
        "B begins after A": pairs._replace(segment_b_start=change(pairs.segment_b_start, row, 65)),
        "the next-sentence label": pairs._replace(
            next_sentence_label=change(pairs.next_sentence_label, row, 255)
        ),
    }
    for law, harmed in harms.items():
        corpus(tmp_path, harmed, masks)
        found = [problem for problem in verify(str(tmp_path)).problems if law in problem]
        assert len(found) == 1, law
        assert found[0].startswith("shard-00000.arrow: ")
        assert found[0].endswith(f"1 row(s), first row {row}")


def test_every_broken_law_of_masks_is_named_with_its_row(tmp_path):
    pairs, masks = samples()
    place = int(masks.offsets[7])
    assert masks.positions[place] > 1
    harms = {
        "are in the sample": masks._replace(positions=change(masks.positions, place, 300)),
        "ascend": masks._replace(positions=change(masks.positions, place, 63)),
        "special tokens are not masked": masks._replace(
            positions=change(masks.positions, place, 0)
        ),
        "replacements are ordinary": masks._replace(ids=change(masks.ids, place, 3)),
    }
    for law, harmed in harms.items():
        corpus(tmp_path, pairs, harmed)
        found = [problem for problem in verify(str(tmp_path)).problems if law in problem]
        assert len(found) == 1, law
        assert found[0].endswith("first row 7")


def test_torn_words_are_found(tmp_path):
    pairs, masks = samples()
    at = np.repeat(pairs.offsets[:-1], np.diff(masks.offsets)) + masks.positions
    inside = np.flatnonzero(~pairs.word_starts[at])[0]
    row = int(np.searchsorted(masks.offsets, inside, side="right") - 1)
    counts = np.diff(masks.offsets)
    counts[row] -= 1
    torn = masks._replace(
        positions=np.delete(masks.positions, inside),
        ids=np.delete(masks.ids, inside),
        offsets=np.concatenate([[0], np.cumsum(counts)]),
    )
    corpus(tmp_path, pairs, torn)
    (problem,) = verify(str(tmp_path)).problems
    assert (
        problem
        == f"shard-00000.arrow: words are masked whole or not at all: 1 row(s), first row {row}"
    )


def test_tokens_that_are_masked_each_alone_tear_no_words(tmp_path):
    pairs, _ = samples()
    masking = MaskingSettings(whole_words=False)
    corpus(tmp_path, pairs, whole_word_masks(pairs, masking, VOCABULARY, 0), masking)
    assert verify(str(tmp_path)).problems == []


def test_budgets_and_shares_are_compared_with_the_settings(tmp_path):
    pairs, masks = samples()
    corpus(tmp_path, pairs, masks, MaskingSettings(probability=0.1))
    assert "the budget of masked tokens holds" in verify(str(tmp_path)).problems[0]
    corpus(tmp_path, pairs, masks, MaskingSettings(max_predictions=9))
    assert "max_predictions holds" in verify(str(tmp_path)).problems[-1]
    corpus(tmp_path, pairs, masks, MaskingSettings(mask_share=0.5, random_share=0.1))
    problems = verify(str(tmp_path)).problems
    assert any("are shown as [MASK]; the settings say 50.00%" in problem for problem in problems)


def test_changed_bytes_missing_and_unlisted_shards_are_all_reported(tmp_path):
    make_corpus(tmp_path)
    first, second, third = sorted(tmp_path.glob("*.arrow"))
    data = bytearray(first.read_bytes())
    data[len(data) // 2] ^= 1
    first.write_bytes(data)
    second.unlink()
    third.with_name("shard-99999.arrow").write_bytes(b"")
    problems = verify(str(tmp_path)).problems
    assert len(problems) == 3
    assert "shard-99999.arrow: not in the manifest" in problems[0]
    assert "SHA-256" in problems[1]
    assert "can't be read" in problems[2]


def test_a_problem_of_the_folder_does_not_end_the_count_of_masks(tmp_path):
    pairs, masks = samples()
    corpus(tmp_path, pairs, masks, MaskingSettings(mask_share=0.5, random_share=0.1))
    (tmp_path / "shard-99999.arrow").write_bytes(b"")
    checked = verify(str(tmp_path))
    assert checked.masked == len(masks.positions)
    assert "not in the manifest" in checked.problems[0]
    assert any("the settings say 50.00%" in problem for problem in checked.problems)


def test_a_shard_of_another_vocabulary_is_found(tmp_path):
    pairs, masks = samples()
    manifest = corpus(tmp_path, pairs, masks)
    write_manifest(tmp_path, manifest.model_copy(update={"vocab_sha256": "w"}))
    assert "another vocabulary" in verify(str(tmp_path)).problems[0]


def test_no_manifest_is_no_corpus(tmp_path):
    with pytest.raises(ShardError, match="not a finished corpus"):
        verify(str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"special_ids": {}}, r"damaged \(special_ids has no \[PAD\]"),
        ({"vocab_size": 3}, r"special_ids \[3, 4\] are outside of a vocabulary of 3"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(tmp_path, changes, message):
    manifest = corpus(tmp_path, *samples())
    write_manifest(tmp_path, manifest.model_copy(update=changes))
    with pytest.raises(ShardError, match=message):
        verify(str(tmp_path))


def test_a_shard_that_is_listed_twice_is_refused(tmp_path):
    manifest = corpus(tmp_path, *samples())
    write_manifest(tmp_path, manifest.model_copy(update={"shards": manifest.shards * 2}))
    with pytest.raises(ShardError, match=r"listed more than once: shard-00000\.arrow"):
        verify(str(tmp_path))


def test_another_size_of_the_vocabulary_is_named(tmp_path):
    manifest = corpus(tmp_path, *samples())
    write_manifest(tmp_path, manifest.model_copy(update={"vocab_size": 10}))
    (problem,) = verify(str(tmp_path)).problems
    assert "shard-00000.arrow: made with a vocabulary of 1000 entries" in problem
