import importlib.metadata
import io
import json

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus.samples.segmentation import Segmenter, load_segmenter, word_boundaries
from pipeline.errors import ConfigError, CorpusError

NAMES = ("rjieba", "jieba")


def is_han(text):
    codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
    return (codes >= 0x4E00) & (codes <= 0x9FFF)


@pytest.mark.parametrize("name", NAMES)
def test_words(name):
    text = "我来到北京清华大学。"
    boundaries = word_boundaries(text, load_segmenter(name))
    words = np.split(list(text), np.flatnonzero(boundaries)[1:-1])
    assert ["".join(word) for word in words] == ["我", "来到", "北京", "清华大学", "。"]


@given(st.text(), st.sampled_from(NAMES))
def test_nothing_is_left_out(text, name):
    segmenter = load_segmenter(name)
    assert "".join(segmenter.cut(text)) == text
    assert len(word_boundaries(text, segmenter)) == len(text) + 1


@pytest.mark.parametrize(
    "text", ["卡拉OK和T恤，C++与3.5%的云计算机房\n二〇二四年", "他说的确实在理"]
)
def test_both_segmenters_agree_between_han_characters(text):
    _compare(text)


@pytest.mark.slow
def test_both_segmenters_agree_on_the_shared_corpus(shared):
    with zstandard.open(shared / "corpus" / "corpus.jsonl.zst") as file:
        texts = [json.loads(line)["text"] for line in io.TextIOWrapper(file, "utf-8")]
    # jieba would take 20 s for all documents; every eighth one gives 0.9 million characters.
    assert sum(_compare(text) for text in texts[::8]) > 500_000


def _compare(text):
    fast, reference = (word_boundaries(text, load_segmenter(name)) for name in NAMES)
    han = is_han(text)
    between = np.flatnonzero(han[1:] & han[:-1]) + 1
    assert np.array_equal(fast[between], reference[between])
    return len(between)


@pytest.mark.parametrize("name", NAMES)
def test_user_dictionary(tmp_path, name):
    plain = load_segmenter(name)
    assert "云计算" not in list(plain.cut("我们在云计算方面领先"))
    path = tmp_path / "words.txt"
    path.write_text("云计算 5000 n\n领先者\n", "utf-8")
    own = load_segmenter(name, str(path))
    assert "云计算" in list(own.cut("我们在云计算方面领先"))
    assert own.identity.startswith(plain.identity)
    assert own.identity != plain.identity
    assert importlib.metadata.version(name) in plain.identity


def test_a_segmenter_is_found_by_its_entry_point(monkeypatch):
    class Entry:
        @staticmethod
        def load():
            return lambda user_dictionary: Segmenter(f"single {user_dictionary}", list)

    class Entries(dict):
        names = ("single",)

    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda group: Entries(single=Entry) if group else None
    )
    assert word_boundaries("汉字", load_segmenter("single", "")).all()


def test_mistakes_are_named():
    with pytest.raises(ConfigError, match="no segmenter 'jiba'; choose one of: jieba, rjieba"):
        load_segmenter("jiba")
    with pytest.raises(ConfigError, match=r"missing\.txt: no such file"):
        load_segmenter("jieba", "missing.txt")
    with pytest.raises(CorpusError, match="its words have 1 characters and the text 2"):
        word_boundaries("汉字", Segmenter("bad", lambda text: [text[0]]))
