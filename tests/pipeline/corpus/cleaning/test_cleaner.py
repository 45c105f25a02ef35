import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus.cleaning.cleaner import (
    Cleaner,
    collapse_whitespace,
    fold_radicals,
    fold_width,
    han_share,
    remove_control,
    repeated_shares,
    simplify,
)
from pipeline.corpus.records import Drop
from pipeline.settings.corpus import CleaningSettings

GENTLE = {"min_characters": 0, "min_han_share": 0.0}


def only(**steps):
    """A cleaner with only these steps."""
    names = ("control_characters", "whitespace", "html", "radicals", "width")
    off = {name: False for name in names}
    return Cleaner(CleaningSettings(**{**off, **GENTLE, **steps}))


def test_control_characters_are_removed_and_lines_kept():
    assert (
        remove_control("a\r\nb\rc\u2028d\x00\u200b汉\ufeff字\x7f\ue000\tz") == "a\nb\nc\nd汉字\tz"
    )


def test_joiners_are_kept_in_emoji_only():
    assert remove_control("👩\u200d🔬 汉\u200d字") == "👩\u200d🔬 汉字"


@pytest.mark.parametrize("code", [0x34F, 0x180B, 0x3164, 0xFE00, 0xFE0F, 0xFFA0, 0xFFFC, 0xE0100])
def test_what_shows_nothing_does_not_divide_words(code):
    """A filler, a variation selector or the place of a picture; some became [UNK]."""
    assert remove_control(f"北{chr(code)}京❤{chr(code)}") == "北京❤"


def test_whitespace():
    assert collapse_whitespace("  一\u3000二 \t 三 \n\n \n 四\xa0五 ") == "一 二 三\n四 五"


def test_radicals_become_the_characters_that_look_the_same():
    assert fold_radicals("⼈⼯⻅⻓⻔⻋⻢⾥⽣⿕一") == "人工见长门车马里生龠一"
    assert fold_radicals("\uf90a\uf9fd\ufa19\U0002f800﨑") == "金什神丽﨑"
    text = "公园⾥的⽼⼈"
    assert Cleaner(CleaningSettings(**GENTLE))(text) == "公园里的老人"
    assert only()(text) == text


def test_width_folds_letters_and_digits_but_not_punctuation():
    assert fold_width("１９９８年ＡＢｃ，（好）！\u3000完") == "1998年ABc，（好）！ 完"


def test_simplify_nfkc_and_mojibake():
    assert simplify("漢語資訊") == "汉语资讯"
    assert only(nfkc=True)("①㎏ﬁ，") == "1kgfi,"
    assert only(mojibake=True)("汉字".encode().decode("latin-1")) == "汉字"


def test_every_step_can_be_switched_off_and_is_counted():
    text = "<p>Ａ&amp;  漢\u200b</p>"
    expected = {"html": 1, "width": 1, "simplify": 1, "control_characters": 1, "whitespace": 1}
    cleaner = only(**dict.fromkeys(expected, True))
    assert cleaner(text) == "A& 汉"
    assert cleaner.changed == expected
    assert only()(text) == text
    assert not only().changed


@pytest.mark.parametrize(
    ("text", "settings", "reason"),
    [
        (" \n\t", GENTLE, "empty"),
        ("短文", {"min_characters": 3, "min_han_share": 0}, "too_short"),
        ("only English here", {"min_han_share": 0.3}, "not_chinese"),
        ("一\n一\n一\n二", {**GENTLE, "max_repeated_lines": 0.4}, "repeated_lines"),
        (
            "很长的一段\n很长的一段\n二",
            {**GENTLE, "max_repeated_paragraphs": 0.3},
            "repeated_paragraphs",
        ),
    ],
)
def test_documents_are_dropped_for_a_reason(text, settings, reason):
    dropped = Cleaner(CleaningSettings(**settings))(text)
    assert isinstance(dropped, Drop)
    assert dropped.reason == reason


def test_shares():
    assert han_share("汉字ab") == 0.5
    assert han_share("汉 字\n") == 1.0
    assert han_share("𠀀㐀豈") == 1.0
    assert han_share("") == 0.0
    assert repeated_shares("一二\n一二\n三") == (1 / 3, 2 / 7)


@given(st.text())
def test_cleaning_twice_is_cleaning_once(text):
    """Without the step for HTML: it turns `&amp;lt;` into `&lt;`, and that into `<`."""
    cleaner = Cleaner(CleaningSettings(html=False, **GENTLE))
    once = cleaner(text)
    assert isinstance(once, Drop) or cleaner(once) == once
