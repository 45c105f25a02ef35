"""The exported tokenizer sees raw text as pretraining saw the cleaned text."""

import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, BertTokenizer

from pipeline.corpus.cleaning.cleaner import Cleaner, simplify
from pipeline.corpus.samples.vocabulary import build_tokenizer
from pipeline.export.tokenizer import export_tokenizer, recorded_cleaning
from pipeline.settings.corpus import CleaningSettings

CHARACTERS = "北京王明在得分传统汉字乾干隆覆复反覆，。年月日（）－"
LATIN = "abcdefghijklmnopqrstuvwxyz0123456789"
NO_DROPS = {"min_characters": 0, "min_han_share": 0.0}
RAW = "１９９８年ＡＢｃ　x\u3000京\u200bé\x0bg\x1fh\ufeff\u00adi㈱①ﬁ傳統漢字乾隆反覆乾燥⼈℃"


@pytest.fixture(scope="module")
def vocab(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *CHARACTERS, *LATIN, *"ABC(株)℃°"]
    tokens += [f"##{one}" for one in LATIN + "ABC"]
    path.write_text("\n".join(dict.fromkeys(tokens)) + "\n", "utf-8")
    return path


class Pair(tuple):
    def __repr__(self):
        return "a failure prints no tables"


STEPS = {
    "none": {"width": False, "control_characters": False, "whitespace": False, "html": False},
    "default": {},
    "nfkc": {"nfkc": True},
    "simplify": {"simplify": True},
    "simplify alone": {"simplify": True, "width": False, "control_characters": False},
}


@pytest.fixture(scope="module", params=[*((steps, True) for steps in STEPS), ("default", False)])
def pair(request, vocab):
    """A cleaner, the tokenizer of pretraining, and the exported one."""
    steps, lowercase = request.param
    cleaning = CleaningSettings(**(STEPS[steps] | NO_DROPS))
    exported = export_tokenizer(vocab, lowercase, cleaning)
    return Pair((Cleaner(cleaning), build_tokenizer(vocab, lowercase), exported.backend_tokenizer))


@settings(max_examples=40)
@given(text=st.text(st.sampled_from(RAW + CHARACTERS + "xz "), max_size=30))
def test_raw_text_gives_the_ids_of_the_cleaned_text(text, pair):
    cleaner, pretraining, exported = pair
    text = f"京{text}京"
    assert exported.encode(text).ids == pretraining.encode(cleaner(text)).ids


def test_offsets_count_the_characters_of_the_raw_text(pair):
    """What a token was made from gives that token, wherever it stands in the text."""
    _, _, exported = pair
    raw = RAW.replace("乾隆", "").replace("反覆", "")  # a phrase is more than its characters
    text = f"\u200b{raw}在{raw}"
    encoding = exported.encode(text, add_special_tokens=False)
    assert encoding.offsets[-1][1] >= len(text) - 1
    for token, (start, end) in zip(encoding.tokens, encoding.offsets, strict=True):
        if token != "[UNK]":
            alone = exported.encode(text[start:end], add_special_tokens=False).tokens
            assert token.removeprefix("##") in {each.removeprefix("##") for each in alone}


def test_full_width_text_is_read_as_half_width(vocab, tmp_path):
    export_tokenizer(vocab, True, CleaningSettings()).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    wide, narrow = "在１９９８年ＣＢＡ得３０分", "在1998年CBA得30分"
    found = tokenizer(wide, return_offsets_mapping=True)
    assert found == tokenizer(narrow, return_offsets_mapping=True)
    assert tokenizer.unk_token_id not in found["input_ids"]
    assert "token_type_ids" in found


@pytest.mark.parametrize("lowercase", [True, False])
def test_bert_tokenizer_folds_case_as_the_network_was_trained(lowercase, vocab, tmp_path):
    """Other characters it does not fold, as the model card says."""
    plain = CleaningSettings(**STEPS["none"])
    for cleaning in (plain, CleaningSettings()):
        export_tokenizer(vocab, lowercase, cleaning).save_pretrained(tmp_path)
        shutil.copy(vocab, tmp_path / "vocab.txt")
        known, auto = (cls.from_pretrained(tmp_path) for cls in (BertTokenizer, AutoTokenizer))
        for text in ("在ABc得30分", "北京Éa"):
            assert known(text)["input_ids"] == auto(text)["input_ids"]
    assert auto.tokenize("Ab")[0] == ("a" if lowercase else "A")
    assert known("１９")["input_ids"] != auto("１９")["input_ids"] == auto("19")["input_ids"]


def test_phrases_of_opencc(vocab):
    """In which a character becomes another one than it becomes alone."""
    fold = export_tokenizer(vocab, True, CleaningSettings(simplify=True)).backend_tokenizer
    for text in ("乾隆年間乾燥", "反覆無常", "瞭望與瞭解", "樊於期", "憑藉", "羣覆答覆"):
        normal = fold.normalizer.normalize_str(text).replace(" ", "")
        assert normal == simplify(text) != "".join(map(simplify, text))


def test_only_what_all_corpora_folded_is_folded():
    one = {"cleaning": {"width": True, "nfkc": True, "min_characters": 3}, "lowercase": True}
    other = {"cleaning": {"width": True, "nfkc": False}, "lowercase": True}
    lowercase, cleaning = recorded_cleaning([one, other])
    assert lowercase
    assert [name for name, value in cleaning.model_dump().items() if value is True] == ["width"]
    assert not recorded_cleaning([one, {"lowercase": False}])[0]
    _, nothing = recorded_cleaning([{}])
    assert not any(value is True for value in nothing.model_dump().values())
