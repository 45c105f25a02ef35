"""Each filter drops what it is for, keeps ordinary prose, and counts nothing while it is off."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus import planning
from pipeline.corpus.cleaning import quality
from pipeline.corpus.cleaning.cleaner import Cleaner
from pipeline.corpus.records import Drop
from pipeline.corpus.run.inputs import list_inputs
from pipeline.errors import ConfigError
from pipeline.settings.corpus import WEB, CleaningSettings, CorpusSettings
from pipeline.settings.reading.config_file import load_config
from tests.pipeline.corpus import raw
from tests.pipeline.corpus.raw import write_texts

PROSE = (
    "昨天下午，我和朋友一起去了城里的图书馆。那里的书很多，光是历史就有三个房间。我们在窗边坐下，"
    "各自看了两个小时，谁也没有说话。回家的路上，他说起小时候的事：父亲常常带他来这里，"
    "一坐就是一天。我想，这样的日子大概不会再有了，可是书还在，窗边的光也还在。"
)
GOODS = "手机壳 ￥19.9 ★★★★★ 已售 3821 件 ｜ 数据线 ￥9.9 ★★★★ 已售 12093 件 ｜ " * 8
LOOP = PROSE + "点击下载最新版本安装包立即体验。" * 20
NAMES = "张伟李娜刘洋陈静杨帆黄磊周杰吴迪徐峰孙悦马超朱琳胡兵郭涛林峰何洁高翔梁辰郑爽" * 5


def reason(text, **settings):
    result = Cleaner(CleaningSettings(min_characters=0, min_han_share=0, **settings))(text)
    return result.reason if isinstance(result, Drop) else ""


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("max_symbols", GOODS, "digits_and_symbols"),
        ("max_repeated_ngrams", LOOP, "repeated_ngrams"),
        ("min_function_characters", NAMES, "few_function_characters"),
    ],
)
def test_a_filter_drops_what_it_is_for(name, text, expected):
    assert reason(text) == ""
    assert reason(text, **{name: WEB[name]}) == expected
    assert reason(PROSE, **{name: WEB[name]}) == ""


def test_function_characters_are_counted_in_both_scripts():
    simplified, traditional = "这们来个说为时于与从", "這們來個說為時於與從"
    assert quality.function_share(simplified) == quality.function_share(traditional) == 1.0


def test_flagged_words_are_those_of_the_users_list(tmp_path):
    words = raw.write(tmp_path / "flagged.txt", "点击\n点击下载\n\n安装包\n".encode())
    assert reason(LOOP, flagged_words=str(words)) == "flagged_words"
    assert reason(LOOP, flagged_words=str(words), max_flagged=0.9) == ""
    assert reason(PROSE, flagged_words=str(words)) == ""
    share = quality.flagged_share("请点击下载安装包吧", quality.flagged_pattern(str(words), str))
    assert share == 7 / 9


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_of_every_system_divide_flagged_words(tmp_path, end):
    words = raw.write(tmp_path / "flagged.txt", f"\ufeff点击{end}下载{end}".encode())
    assert quality.flagged_pattern(str(words), str).findall("请点击下载") == ["点击", "下载"]


@given(st.lists(st.text("甲乙丙]^-\\.a", min_size=1, max_size=4), min_size=1, max_size=30))
def test_any_of_many_words_is_found_and_the_longest_one(words):
    plain = re.compile("|".join(map(re.escape, sorted(words, key=len, reverse=True))))
    text = "甲乙丙]^-\\.a" * 2 + "".join(words)
    assert quality.any_of(words).findall(text) == plain.findall(text)


def test_a_list_of_many_words_takes_little_time():
    """When each word was tried at each character, this took 15 s."""
    words = [chr(0x4E00 + number % 5000) + chr(0x6000 + number // 5000) for number in range(60_000)]
    text = "".join(chr(0x4E00 + number * 7 % 5000) for number in range(50_000))
    assert quality.any_of(words).findall(text + words[-1])[-1] == words[-1]


@pytest.mark.parametrize("word", ["ＱＱ群", "加\u3000微信", "微信&amp;号", "賭博"])
def test_flagged_words_are_cleaned_as_the_text_is(tmp_path, word):
    words = raw.write(tmp_path / "flagged.txt", word.encode())
    text = f"他说：{word}，在这里。"
    assert reason(text, flagged_words=str(words), simplify=True) == "flagged_words"


def test_a_flagged_word_that_cleaning_removes_is_refused(tmp_path):
    words = raw.write(tmp_path / "flagged.txt", "赌博\n<b>\n".encode())
    corpus = CorpusSettings(cleaning={"flagged_words": str(words)})
    with pytest.raises(ConfigError, match=r"flagged\.txt: '<b>' is not in any text"):
        planning.check(corpus, tmp_path / "out", None)


def test_named_files_are_read_again_when_they_have_changed(tmp_path):
    words = raw.write(tmp_path / "flagged.txt", "点击\n".encode())
    good = raw.write(tmp_path / "good.txt", "\n".join(write_texts(300)).encode())
    settings = {"good_text": str(good), "max_perplexity": 50.0}
    assert reason(LOOP, flagged_words=str(words)) == "flagged_words"
    assert reason(PROSE, **settings) == "high_perplexity"
    words.write_text("没有的词\n", "utf-8")
    good.write_text(PROSE * 100, "utf-8")
    assert reason(LOOP, flagged_words=str(words)) == ""
    assert reason(PROSE, **settings) == ""


def test_text_unlike_the_good_text_is_dropped(tmp_path):
    good = raw.write(tmp_path / "good.txt", "\n".join(write_texts(300)).encode())
    settings = {"good_text": str(good), "max_perplexity": 50.0}
    mixed = random.Random(0)
    for text in write_texts(20, seed=5):
        assert reason(text, **settings) == ""
        letters = list(text)
        mixed.shuffle(letters)
        assert reason("".join(letters), **settings) == "high_perplexity"
    assert reason("魑魅魍魉" * 10, **settings) == "high_perplexity"
    assert reason("好", **settings) == ""


def test_a_preset_names_thresholds_that_single_settings_replace():
    web = load_config(None, ["corpus.cleaning=web"]).corpus.cleaning
    assert {name: getattr(web, name) for name in WEB} == WEB
    other = load_config(None, ["corpus.cleaning.preset=web", "corpus.cleaning.max_symbols=0.5"])
    assert other.corpus.cleaning.max_symbols == 0.5
    assert other.corpus.cleaning.min_characters == WEB["min_characters"]
    assert CleaningSettings.model_validate(web.model_dump()) == web
    with pytest.raises(ConfigError, match="preset"):
        load_config(None, ["corpus.cleaning=wib"])


@pytest.mark.parametrize(
    "wrong", [{"max_flagged": 0.5}, {"good_text": "x"}, {"max_perplexity": 5.0}]
)
def test_settings_that_need_each_other(wrong):
    with pytest.raises(ValueError, match="need"):
        CleaningSettings(**wrong)


def test_named_files_are_no_text_count_by_content_and_are_refused_early(tmp_path, vocab):
    raw.write(tmp_path / "in" / "a.jsonl", raw.jsonl([PROSE]))
    words = raw.write(tmp_path / "in" / "flagged.txt", "点击".encode())
    inputs = (str(tmp_path / "in"),)

    def plan():
        corpus = CorpusSettings(inputs=inputs, cleaning={"flagged_words": str(words)})
        found = list_inputs(corpus)
        assert [source.name for source in found.sources] == ["0/a.jsonl"]
        return planning.plan(corpus, vocab, 0, found).fingerprint

    before = plan()
    words.write_text("下载", "utf-8")
    assert plan() != before
    missing = CorpusSettings(inputs=inputs, cleaning={"flagged_words": str(tmp_path / "no")})
    with pytest.raises(ConfigError, match=r"corpus\.cleaning\.flagged_words"):
        planning.check(missing, tmp_path / "out", None)
