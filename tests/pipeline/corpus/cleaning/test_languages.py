"""Documents in other languages are dropped, and all kinds of Chinese are Chinese."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.corpus import planning
from pipeline.corpus.cleaning import languages
from pipeline.corpus.cleaning.cleaner import simplify
from pipeline.errors import ConfigError
from pipeline.settings.corpus import CleaningSettings, CorpusSettings
from pipeline.settings.reading.config_file import load_config
from tests.pipeline.corpus import raw
from tests.pipeline.corpus.cleaning.test_quality import PROSE, reason
from tests.pipeline.corpus.preparing import run
from tests.pipeline.corpus.raw import write_texts

CHINESE = {
    "prose": PROSE,
    "short": "昨天下午，我和朋友一起去了图书馆。",
    "traditional": "昨天下午，我們一起去圖書館看書，那裡的書很多，光是歷史就有三個房間。",
    "classical": "子曰：學而時習之，不亦說乎？有朋自遠方來，不亦樂乎？人不知而不慍，不亦君子乎？",
    "cantonese": "呢個係廣東話，你識唔識講？我哋今日去邊度食飯好呢？佢話唔使等佢。",
    "technical": "Python 的 list 和 tuple 有什么区别？列表 list 可以修改，元组 tuple 不可以修改。",
}
OTHERS = {
    "ja": "昨日の午後、友達と一緒に市の図書館へ行きました。歴史の本だけで三つの部屋がありました。",
    "ja, mostly Han": "東京都知事選挙の投票が七日行われ、現職が三選を果たし、任期は四年。",
    "ko": "어제 오후에 친구와 함께 도서관에 갔습니다. 역사책만 해도 방 세 개가 있었습니다.",
    "en": "Yesterday afternoon I went to the library of the town with a friend, and we read there.",
    "code": "def add(one, two):\n    return one + two\n\nfor n in range(10):\n    print(n)",
}


@pytest.mark.parametrize("name", CHINESE)
def test_all_kinds_of_chinese_are_chinese(name):
    assert reason(CHINESE[name], languages=["zh"]) == ""
    assert reason(CHINESE[name], languages=["ja", "ko", "en"]) == "other_language"


@pytest.mark.parametrize("name", OTHERS)
def test_other_languages_and_code_are_dropped(name):
    assert reason(OTHERS[name]) == ""
    assert reason(OTHERS[name], languages=["zh"]) == "other_language"


def test_several_languages_and_the_smallest_probability():
    ja = OTHERS["ja"]
    assert reason(ja, languages=["zh", "ja"]) == ""
    assert reason(PROSE, languages=["zh", "ja"]) == ""
    # The model cannot tell well in which kind of Chinese a short text is.
    sure = languages.probability(CHINESE["short"], ["zh"])
    alone = languages.probability(CHINESE["short"], ["wuu"])
    assert alone < 0.5 < sure < 1
    assert reason(CHINESE["short"], languages=["zh"], min_language_probability=sure / 2) == ""
    strict = (1 + sure) / 2
    assert reason(CHINESE["short"], languages=["zh"], min_language_probability=strict)


def test_all_of_a_long_document_counts_and_only_a_part_is_read(monkeypatch):
    ja = OTHERS["ja"] * 20
    assert reason(PROSE + ja, languages=["zh"]) == "other_language"
    assert reason(PROSE * 20, languages=["zh"]) == ""
    assert languages.probability(PROSE * 20 + ja, ["zh", "ja"]) > 0.99
    read = []
    monkeypatch.setattr(languages, "_identifier", lambda: Recorder(read))
    text = "".join(map(chr, range(0x4E00, 0x4E00 + 1000)))
    languages.probability(text, ["zh"])
    languages.probability(text[:256], ["zh"])
    pieces = read[0].split("\n")
    assert [text.index(piece) for piece in pieces] == [0, 312, 624, 936]
    assert {len(piece) for piece in pieces} == {64}
    assert read[1] == text[:256]


class Recorder:
    def __init__(self, read):
        self.read = read

    def rank(self, text):
        self.read.append(text)
        return []


def test_a_text_without_letters_is_in_no_language():
    assert languages.probability("12 34 ……", ["zh"]) < 0.5


def test_threads_give_the_same_as_one_thread():
    texts = [*CHINESE.values(), *OTHERS.values(), *write_texts(50)]
    alone = [languages.probability(text, ["zh"]) for text in texts]
    with ThreadPoolExecutor(4) as threads:
        together = threads.map(lambda text: languages.probability(text, ["zh"]), texts * 3)
        assert list(together) == alone * 3


def test_drops_are_counted_and_shown(vocab, tmp_path):
    texts = write_texts(20)
    documents = [*texts[:10], OTHERS["ja, mostly Han"], *texts[10:]]
    source = raw.write(tmp_path / "a.jsonl", raw.jsonl(documents))
    cleaning = {"languages": ["zh"], "min_language_probability": 0.3}
    manifest = run(source, tmp_path / "out", vocab, cleaning=cleaning)
    assert manifest.drops == {"other_language": 1}
    (shown,) = manifest.dropped["other_language"]
    assert "東京都知事選挙" in shown
    assert manifest.counts["documents"] == 20


def test_unknown_languages_are_refused_early(tmp_path):
    corpus = CorpusSettings(inputs=("x",), cleaning={"languages": ["zh", "chinese"]})
    with pytest.raises(ConfigError, match=r"languages: unknown: chinese; py3langid knows .*, ja, "):
        planning.check(corpus, tmp_path / "out", None)


def test_settings_that_contradict_each_other_and_those_that_mean_the_same():
    with pytest.raises(ConfigError, match="min_language_probability needs languages"):
        load_config(None, ["corpus.cleaning.min_language_probability=0.8"])
    with pytest.raises(ConfigError, match=r"set corpus\.cleaning\.min_han_share=0"):
        load_config(None, ["corpus.cleaning.languages=[en]"])
    same = [CleaningSettings(languages=each) for each in (["zh", "ja"], ["ja", "zh", "zh"])]
    assert same[0] == same[1]
    assert CleaningSettings(languages=["en"], min_han_share=0).languages == ("en",)


def test_simplified_text_is_as_chinese_as_traditional():
    text = CHINESE["traditional"]
    assert (
        languages.probability(simplify(text), ["zh"]) > 0.95 < languages.probability(text, ["zh"])
    )
