import pytest

from pipeline.corpus.samples.vocabulary import (
    SPECIALS,
    build_tokenizer,
    read_vocabulary,
    vocabulary_sha256,
)
from pipeline.errors import VocabularyError
from tests.pipeline.corpus.samples.test_vocabulary_training import TEXTS


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "no such vocabulary"),
        ("[PAD]\n[UNK]\n[CLS]\n[SEP]\n的\n".encode(), r"no \[MASK\]"),
        ("\n".join([*SPECIALS, "的", "一", "的"]).encode(), "'的' is on more than one line"),
        ("\n".join([*SPECIALS, "的"]).encode("gbk"), "not UTF-8.*save the file as UTF-8"),
        (b"[PAD]\t0\n[UNK]\t1\n", r"no \[PAD\].*; the first line is '\[PAD\]\\t0'"),
        (b"", r"no \[PAD\].*; the first line is ''"),
    ],
)
def test_a_bad_vocabulary_is_refused(tmp_path, data, message):
    path = tmp_path / "vocab.txt"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(VocabularyError, match=message):
        read_vocabulary(path)


def test_a_folder_is_no_vocabulary(tmp_path):
    with pytest.raises(VocabularyError, match=r"is a folder; name the vocab\.txt in it"):
        read_vocabulary(tmp_path)


def test_line_ends_do_not_change_a_vocabulary(tmp_path):
    for name, end, codec in (("a", "\n", "utf-8"), ("b", "\r\n", "utf-8-sig")):
        (tmp_path / name).write_bytes(end.join([*SPECIALS, "的", ""]).encode(codec))
    assert vocabulary_sha256(tmp_path / "a") == vocabulary_sha256(tmp_path / "b")
    assert read_vocabulary(tmp_path / "b")["的"] == 5


def test_pairs_get_their_special_tokens(tmp_path):
    (tmp_path / "v").write_text("\n".join([*SPECIALS, "的", "一"]), "utf-8")
    tokenizer = build_tokenizer(tmp_path / "v", True)
    encoding = tokenizer.encode("的一", "一的")
    assert encoding.tokens == ["[CLS]", "的", "一", "[SEP]", "一", "的", "[SEP]"]
    assert encoding.type_ids == [0, 0, 0, 0, 1, 1, 1]


def test_the_tokenizer_is_transformers_bert_tokenizer(shared):
    transformers = pytest.importorskip("transformers")
    path = shared / "vocab" / "vocab.txt"
    theirs = transformers.BertTokenizer(vocab=read_vocabulary(path))
    ours = build_tokenizer(path, True)
    for text in [*TEXTS, "［ＭＡＳＫ］ [MASK] naïve 한글 🙂 龘"]:
        assert ours.encode(text).ids == theirs(text)["input_ids"]
