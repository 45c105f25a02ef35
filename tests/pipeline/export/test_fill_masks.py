"""Answers of an export in place of masks."""

import pytest

from model import NezhaConfig
from pipeline.export.fill_masks import best_answers, held_out_samples
from pipeline.training.checkpoints import files as checkpoints


def test_held_out_masks_are_answered_as_well_as_the_evaluation_says(run):
    _, paths = run
    best = checkpoints.best(paths.checkpoints)
    accuracy = checkpoints.read_state(best)["heldout"]["mlm_accuracy"]
    samples = held_out_samples(paths.export, paths.heldout, number=10_000, length=1000)
    masked = [token for tokens in samples for token in tokens if token.answer is not None]
    right = sum(token.answer == token.text for token in masked) / len(masked)
    assert right == pytest.approx(accuracy, abs=1e-6)
    assert all(tokens[0].text == "[CLS]" for tokens in samples)
    assert not any(token.text == "[MASK]" for tokens in samples for token in tokens)


def test_a_few_samples_are_cut_and_spread(run):
    _, paths = run
    all_samples = held_out_samples(paths.export, paths.heldout, 10_000, 1000)
    few = held_out_samples(paths.export, paths.heldout, 2, 8)
    assert [len(tokens) for tokens in few] == [8, 8]
    texts = [[token.text for token in tokens[:8]] for tokens in all_samples]
    found = [texts.index([token.text for token in tokens]) for tokens in few]
    assert found == [0, len(texts) // 2]


def test_the_best_answers_come_with_probabilities(run):
    _, paths = run
    answers = best_answers(paths.export, "一丁[MASK]七", 3)
    shares = [share for _, share in answers]
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) <= 1
    entries = NezhaConfig.from_pretrained(paths.export).vocab_size
    assert sum(
        share for _, share in best_answers(paths.export, "一[MASK]", entries)
    ) == pytest.approx(1)
