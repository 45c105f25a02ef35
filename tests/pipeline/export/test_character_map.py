"""Maps of characters: what is replaced, and the offsets that stay."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import NormalizedString

from pipeline.export.character_map import character_map

MAP = {
    "１": "1",
    "ａ": "a",
    "㈱": "(株)",
    "傳": "传",
    "é": "e",
    "𠮷": "吉",
    "\x0b": "\n",
    "ﬁ": "fi",
}


@given(st.text(st.sampled_from([*MAP, *"1aé吉传 \n好𠀀z"])))
def test_each_character_is_replaced_and_no_other(text):
    wanted = "".join(MAP.get(character, character) for character in text)
    assert character_map(MAP).normalize_str(text) == wanted


def test_thousands_of_characters():
    many = {chr(code): chr(code + 1) for code in range(0x4E00, 0x9F00, 3)}
    normal = character_map(many).normalize_str
    assert all(
        normal(chr(code)) == many.get(chr(code), chr(code)) for code in range(0x4E00, 0xA000)
    )


def test_places_in_the_original_text_are_kept():
    normalized = NormalizedString("㈱１好")
    character_map(MAP).normalize(normalized)
    assert normalized.normalized == "(株)1好"
    found = [normalized[i : i + 1].original for i in range(5)]
    assert found[3:] == ["１", "好"]


@pytest.mark.parametrize("wrong", [{"ab": "c"}, {"a": ""}, {"\0": "c"}])
def test_what_the_format_cannot_hold_is_refused(wrong):
    with pytest.raises(ValueError, match="is not a replacement"):
        character_map(wrong)
