"""The report's figures against a slow count of the same samples."""

import json
from collections import Counter

import numpy as np
import pytest

from pipeline.corpus.shards.format import write_manifest
from pipeline.corpus.shards.reader import ShardFolder, flat_pairs
from pipeline.corpus.shards.report import corpus_report
from pipeline.corpus.shards.report_page import summary, write_report
from tests.pipeline.corpus.made import VOCABULARY, make_corpus

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(chr(0x4E00 + i) for i in range(995))]


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    make_corpus(folder)
    return ShardFolder(folder)


def test_figures_equal_those_of_a_slow_count(reader):
    report = corpus_report(reader, TOKENS, 10**9)
    rows = reader.rows(np.arange(len(reader)))
    pairs = flat_pairs(rows)
    words, sizes, kinds = Counter(), Counter(), Counter()
    for row in range(len(reader)):
        begin, end = pairs.offsets[row : row + 2]
        word = []
        for place in range(begin, end + 1):
            if place == end or pairs.word_starts[place]:
                if word and word[0] not in VOCABULARY.special_ids:
                    words["".join(TOKENS[token] for token in word)] += 1
                    sizes[len(word)] += 1
                word = []
            if place < end:
                word.append(pairs.input_ids[place])
        for at in range(*rows.masks.offsets[row : row + 2]):
            seen = rows.masks.ids[at]
            original = pairs.input_ids[begin + rows.masks.positions[at]]
            kinds["[MASK]" if seen == 4 else "itself" if seen == original else "random"] += 1
    assert dict(report["top_words"]).items() <= words.items()
    assert [count for _, count in report["top_words"]] == sorted(words.values())[::-1][:100]
    assert {n: count for n, count in enumerate(report["word_lengths"]) if count} == sizes
    assert report["masked_as"] == {k: n / kinds.total() for k, n in kinds.items()}
    assert report["masked_share"] == kinds.total() / len(pairs.input_ids)
    assert report["mean_length"] == np.mean(rows.lengths)
    assert sum(report["token_frequencies"]) == (pairs.input_ids > 4).sum()
    assert report["next_sentence"]["other"] == (rows.next_sentence_label == 1).sum()
    assert sum(report["next_sentence"].values()) == len(reader) == report["measured_samples"]


def test_removed_lines_are_shown_with_the_most_frequent_first(tmp_path):
    for name, found in {"a": [("分享到：", 9), ("上一篇", 4)], "b": [("<首页>", 7)]}.items():
        made = make_corpus(tmp_path / name)
        write_manifest(tmp_path / name, made.model_copy(update={"boilerplate": tuple(found)}))
    report = corpus_report(ShardFolder(tmp_path / "a", tmp_path / "b"), TOKENS, 20)
    assert report["boilerplate"] == [["分享到：", 9], ["<首页>", 7], ["上一篇", 4]]
    lines = summary(report)["lines removed from most documents"]
    assert lines == "分享到： 9, <首页> 7, 上一篇 4"
    page = write_report(report, tmp_path).read_text("utf-8")
    assert "<td>&lt;首页&gt;</td><td>7</td>" in page


def test_a_part_is_spread_over_the_whole(reader):
    report = corpus_report(reader, TOKENS, 50)
    assert report["measured_samples"] == 50
    assert report["samples"] == len(reader)


def test_page_and_json_are_written(reader, tmp_path):
    report = corpus_report(reader, TOKENS, 100) | {"drops": {"too_short": 3, "<b>": 1}}
    report["unknown"] = [["龘", 12345]]
    page = write_report(report, tmp_path / "report").read_text()
    assert page.count("<svg") == page.count("</svg>") == 1
    assert report["top_words"][0][0] in page
    assert "too_short" in page
    assert "<td>龘</td><td>12,345</td>" in page
    assert "<b>" not in page
    assert json.loads((tmp_path / "report" / "report.json").read_text()) == report


def test_shards_without_masks_have_a_report(tmp_path):
    make_corpus(tmp_path, static=False)
    report = corpus_report(ShardFolder(tmp_path), TOKENS, 100)
    assert summary(report)["masked"] == "while training, new ones in every epoch"
    assert "<svg" in write_report(report, tmp_path).read_text()
