"""Held-out scores, compared with a slow count of words, over parts, ranks and ZeRO stages."""

import io

import numpy as np
import pytest
import torch
from rich.console import Console

from jobs import evaluate as verb
from jobs.output.tables import table
from pipeline.feed.batches import heldout
from pipeline.settings.config import Config
from pipeline.training import batch_split, engine, evaluation
from pipeline.training.evaluation import count_words, evaluate, summarize_words
from pipeline.training.objective import PretrainingObjective
from tests.corpora import LETTERS, SPECIAL_IDS, write_corpus, write_vocabulary
from tests.pipeline.training import spawn
from tests.pipeline.training.test_objective import CPU, LENGTH, batch, network, part

SIZE = len(SPECIAL_IDS) + len(LETTERS)


def slow_words(right, words):
    """Count word by word: exact ones and all, by number of tokens up to 5."""
    counts = torch.zeros(2, 5)
    for word in set(words):
        tokens = [r for r, w in zip(right, words, strict=True) if w == word]
        counts[0, min(len(tokens), 5) - 1] += all(tokens)
        counts[1, min(len(tokens), 5) - 1] += 1
    return counts.tolist()


@pytest.mark.parametrize("seed", range(5))
def test_counts_of_words_equal_a_slow_count(seed):
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 9, 60)
    words = np.repeat(np.cumsum(random.integers(1, 4, 60)), lengths)
    right = random.random(len(words)) < 0.8
    counts = count_words(torch.from_numpy(right), torch.from_numpy(words))
    assert counts.tolist() == slow_words(right.tolist(), words.tolist())
    assert 0 < counts[0].sum() < counts[1].sum() == 60


def test_a_word_is_exact_when_all_of_it_is_right():
    right = torch.tensor([True, True, False, True, True, True])
    scores = summarize_words(count_words(right, torch.tensor([3, 3, 4, 4, 5, 9])))
    assert scores == {
        "word_accuracy": 0.75,
        "masked_words": 4,
        "word_accuracy_1": 1.0,
        "masked_words_1": 2,
        "word_accuracy_2": 0.5,
        "masked_words_2": 2,
    }


def test_no_words_have_no_scores():
    nothing = torch.zeros(0, dtype=torch.int64)
    assert summarize_words(count_words(nothing.bool(), nothing)) == {}


def test_evaluation_over_parts_is_evaluation_of_the_whole():
    given, objective = batch(8), PretrainingObjective(network(), nsp_weight=0.3)
    words = np.arange(len(given.masked_labels)) // 3
    cut = int((given.masked_positions < 3 * LENGTH).sum())
    words[cut:] += 1  # no word spans two samples
    whole = evaluate(objective, [given._replace(masked_words=words)], CPU)
    parts = [
        part(given, slice(0, 3))._replace(masked_words=words[:cut]),
        part(given, slice(3, 8))._replace(masked_words=words[cut:]),
    ]
    assert evaluate(objective, parts, CPU) == pytest.approx(whole, rel=1e-5)
    assert whole["perplexity"] == pytest.approx(2.718281828 ** whole["mlm_loss"], rel=1e-6)
    assert whole["loss"] == pytest.approx(whole["mlm_loss"] + 0.3 * whole["nsp_loss"])
    assert whole["masked_tokens"] == len(given.masked_labels)
    assert whole["masked_words"] == len(set(words.tolist()))
    assert objective.training


def score(stage, folder, samples):
    """Scores on this rank of a network that always predicts 10; about half of the labels are 10."""
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    config = Config.model_validate({"engine": {"zero_stage": stage}})
    net = network(SIZE)
    with torch.no_grad():
        net.cls.predictions.bias[10] += 5
    worker = engine.initialize(
        PretrainingObjective(net), config, batch_split.Split(1, world_size, 4 // world_size), "fp32"
    )
    batches = [
        batch._replace(masked_labels=10 + batch.masked_labels // 3 % 2)
        for batch in heldout(folder, 4, samples, rank, world_size)
    ]
    return evaluation.evaluate(worker.module, batches, CPU)


def test_ranks_and_stages_score_alike(tmp_path):
    """An odd number of samples: the ranks have unequal numbers of batches."""
    folder = str(write_corpus(tmp_path / "shards", write_vocabulary(tmp_path / "v")))
    (alone,) = spawn.run(1, score, 1, folder, 37)
    assert 0.1 < alone["word_accuracy"] < alone["mlm_accuracy"] < 0.9
    assert alone["masked_words_2"] > 10
    for stage in (1, 3):
        for found in spawn.run(2, score, stage, folder, 37):
            assert found == pytest.approx(alone, rel=1e-5)


def test_a_rank_without_samples_takes_part(tmp_path):
    """Under ZeRO-3 the others would wait for it forever."""
    folder = str(write_corpus(tmp_path / "shards", write_vocabulary(tmp_path / "v")))
    (alone,) = spawn.run(1, score, 1, folder, 1)
    for found in spawn.run(2, score, 3, folder, 1):
        assert found == pytest.approx(alone, rel=1e-5)


def test_the_verb_prints_words_by_length():
    scores = {
        "mlm_loss": 2.0,
        "perplexity": 7.389,
        "mlm_accuracy": 0.5,
        "masked_tokens": 1200.0,
        "word_accuracy": 0.25,
        "masked_words": 800.0,
        "word_accuracy_5plus": 0.1,
        "masked_words_5plus": 10.0,
    }
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table("scores", verb.shown(scores)))
    text = console.export_text()
    for line in ("2.0000 nats", "50.00% of 1,200", "25.00% of 800", "words of 5 or more"):
        assert line in text
    assert "NSP" not in text
