"""The ids of any text are exactly the tokenizer's."""

import io
import json

import numpy as np
import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.corpus.samples import encoder as encoding
from pipeline.corpus.samples.encoder import Encoder
from pipeline.corpus.samples.vocabulary import SPECIALS, build_tokenizer

ENTRIES = [
    *SPECIALS,
    *"汉字中国人的一，。！？“”·()[].,-%a b c e n i 1 2 k か ー は 한 м é ß".replace(" ", ""),
    *(f"##{piece}" for piece in "汉字的a b c e n i 1 2 か ー は 998 é".replace(" ", "")),
    *("ab", "##abc", "##998", "ai", "[mask]", "mask", "sep"),
]
PIECES = [
    *"汉字中国人的龘𠮷㐀豈〇，。！？“”·…—()[]<>.,-%$+=≠_",
    *"abceniABZÉéèßİıſ12３ＡкМから゙ガー한글①㎏ﬁ",
    *" \t\n\u3000\xa0\u2028",
    *"\u0300\u0301\u0338\u20dd\u200b\u200d\ufeff\xad\x00\x7f\ufffd\ue000",
    *("🙂", "👩\u200d🔬", "🇨🇳", "[MASK]", "[SEP]", "##汉", "##a", "1998", "abcabc", "x" * 101),
]
MIXED = st.lists(st.sampled_from(PIECES), max_size=30).map("".join)


@pytest.fixture(scope="module", params=[True, False], ids=["lower", "cased"])
def pair(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    path.write_text("\n".join(dict.fromkeys(ENTRIES)) + "\n", "utf-8")
    tokenizer = build_tokenizer(path, request.param)
    encoder = Encoder(tokenizer)
    tokenizer.encode_special_tokens = True
    return tokenizer, encoder


def ends_of(text, cuts):
    return sorted({len(text), *(cut for cut in cuts if 0 < cut < len(text))})


def encode(encoder, text, cuts=(), boundaries=None):
    ends = np.array(ends_of(text, cuts))
    if boundaries is None:
        boundaries = np.ones(len(text) + 1, bool)
    return encoder.encode(text, boundaries, ends)


@given(st.one_of(MIXED, st.text()))
@example("汉\u0301字≠a\u0338")
@example("[MASK][SEP] ##汉")
def test_ids_are_the_tokenizers(pair, text):
    tokenizer, encoder = pair
    encoded = encode(encoder, text)
    expected = tokenizer.encode(text, add_special_tokens=False)
    assert encoded.ids.tolist() == expected.ids
    assert encoded.word_starts.tolist() == [token[:2] != "##" for token in expected.tokens]


@given(MIXED, st.sets(st.integers(1, 40)))
def test_sentences_have_the_ids_that_they_have_alone(pair, text, cuts):
    tokenizer, encoder = pair
    encoded = encode(encoder, text, cuts, np.zeros(len(text) + 1, bool))
    ends = ends_of(text, cuts)
    assert len(encoded.offsets) == len(ends) + 1
    begin = 0
    for number, end in enumerate(ends):
        mine = slice(*encoded.offsets[number : number + 2])
        alone = tokenizer.encode(text[begin:end], add_special_tokens=False).ids
        assert encoded.ids[mine].tolist() == alone
        assert not alone or encoded.word_starts[mine][0]
        begin = end


@given(st.lists(st.text(st.sampled_from("汉字中国人"), min_size=1, max_size=4), max_size=12))
def test_words_of_han_characters_begin_where_the_segmenter_says(pair, words):
    text = "".join(words)
    boundaries = np.zeros(len(text) + 1, bool)
    boundaries[np.cumsum([0, *map(len, words)])] = True
    starts = encode(pair[1], text, boundaries=boundaries).word_starts
    assert starts.tolist() == boundaries[:-1].tolist()


def test_the_segmenter_decides_between_han_characters_only(pair):
    text = "国a字，人"
    assert encode(pair[1], text, boundaries=np.zeros(len(text) + 1, bool)).word_starts.all()


def test_no_han_character_gets_the_id_of_a_continuation(pair):
    tokenizer, encoder = pair
    text = "汉字汉字的##汉##字a汉b字"
    ids = encode(encoder, text, boundaries=np.zeros(len(text) + 1, bool)).ids
    produced = {tokenizer.id_to_token(number) for number in ids.tolist()}
    assert not {token for token in produced if token[:2] == "##" and token[2:] in "汉字的"}


def test_memory_of_spans_is_bounded(pair, monkeypatch):
    monkeypatch.setattr(encoding, "REMEMBERED_CHARACTERS", 50)
    tokenizer, _ = pair
    encoder = Encoder(tokenizer)
    for number in range(100):
        text = f"abc{number} a{number * 7} abc{number}"
        ids = encode(encoder, text).ids
        assert ids.tolist() == tokenizer.encode(text, add_special_tokens=False).ids
    assert len(encoder._spans.numbers) < 20


def test_all_of_unicode(pair):
    tokenizer, encoder = pair
    everything = [chr(code) for code in range(0x110000) if not 0xD800 <= code <= 0xDFFF]
    text = "".join(f"{character}字a{character}" for character in everything[::31])
    ids = encode(encoder, text).ids
    assert ids.tolist() == tokenizer.encode(text, add_special_tokens=False).ids


@pytest.mark.slow
@pytest.mark.parametrize("lowercase", [True, False])
def test_the_shared_corpus_under_the_real_vocabulary(shared, lowercase):
    tokenizer = build_tokenizer(shared / "vocab" / "vocab.txt", lowercase)
    encoder = Encoder(tokenizer)
    tokenizer.encode_special_tokens = True
    with zstandard.open(shared / "corpus" / "corpus.jsonl.zst") as file:
        texts = [json.loads(line)["text"] for line in io.TextIOWrapper(file, "utf-8")]
    for text in texts[::25]:
        ids = encode(encoder, text).ids
        assert ids.tolist() == tokenizer.encode(text, add_special_tokens=False).ids


def test_unknown_characters_are_counted(pair):
    _, encoder = pair
    for text, expected in (
        ("龘汉龘🙂字 xyz🙂 龘", {"龘": 3, "🙂": 2, "汉": 0}),
        ("🙂", {"龘": 0, "🙂": 1, "汉": 0}),
    ):
        unknown = encode(encoder, text).unknown
        assert {character: unknown[character] for character in "龘🙂汉"} == expected
