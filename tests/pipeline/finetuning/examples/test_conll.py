"""Words and labels in columns, a word on each line, as CoNLL has them."""

import pytest

from pipeline.finetuning.examples.task_file import DataMistakes
from tests.pipeline.finetuning.examples.reading import read


def test_columns_of_words_can_be_counted(tmp_path):
    text = "1 王 B-PER NR\n2 明 I-PER NR\n\n1 在 O P\n"
    counted = {"columns": {"tokens": 1, "labels": 2}}
    examples, findings = read("ner", tmp_path / "a.conll", text, **counted)
    assert findings == DataMistakes.none()
    assert examples == [
        {"tokens": ["王", "明"], "labels": ["B-PER", "I-PER"]},
        {"tokens": ["在"], "labels": ["O"]},
    ]
    for lacking, message in (("1 王 B-PER\n2\n", "2 words but 1 labels"), ("1\n", "not empty")):
        findings = read("ner", tmp_path / "b.conll", lacking, **counted)[1]
        assert message in findings.bad_lines[0]


def test_a_column_that_counts_words_holds_none(tmp_path):
    text = "1\t王\tB-PER\n2\t明\tI-PER\n\n1\t在\tO\n"
    for shifted in (text, text.replace("1", "0").replace("2", "1")):
        (problem,) = read("ner", tmp_path / "a.conll", shifted)[1].problems
        assert "line 1: the first column counts the words" in problem
    examples, findings = read("ner", tmp_path / "a.conll", columns={"tokens": 1})
    assert findings == DataMistakes.none()
    assert [each["tokens"] for each in examples] == [["王", "明"], ["在"]]
    (example,), _ = read("ner", tmp_path / "b.conll", "1 B-X\n2 I-X\n")
    assert example["tokens"] == ["1", "2"], "these are the words: there is no other column"


@pytest.mark.parametrize("between", ["\t", " ", "  "])
@pytest.mark.parametrize("space", ["\u3000", "\xa0", " ", ""])
def test_white_space_may_be_a_word_of_columns(space, between, tmp_path):
    rows = ["王 B-PER", f"{space} O", "京 B-LOC"]
    text = "\n".join(row.replace(" ", between) for row in rows) + "\n"
    (example,), findings = read("ner", tmp_path / "a.txt", text)
    assert findings == DataMistakes.none()
    assert example == {"tokens": ["王", " ", "京"], "labels": ["B-PER", "O", "B-LOC"]}


def test_sentences_that_nothing_parts_are_told(tmp_path):
    for name, mark in (("a.csv", ","), ("a.txt", " ")):
        text = f"王{mark}B-PER\n去{mark}O\n" * 300
        examples, findings = read("ner", tmp_path / name, text)
        assert len(examples) == 1
        assert "its 600 words are one sentence" in findings.notes[0]


def test_comments_before_sentences_of_columns_are_left_out(tmp_path):
    text = "# id 6d3a domain=zh\n王 _ _ B-PER\n# _ _ O\n\n# id 7\n# _ _ O\n京 _ _ B-LOC\n"
    examples, findings = read("ner", tmp_path / "a.conll", text)
    assert findings == DataMistakes.none()
    assert examples == [
        {"tokens": ["王", "#"], "labels": ["B-PER", "O"]},
        {"tokens": ["#", "京"], "labels": ["O", "B-LOC"]},
    ]


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_a_brace_may_be_the_first_word(tmp_path, ends):
    text = ends.join(["{ O", "王 B-PER", "", "京 B-LOC", ""])
    (tmp_path / "a.txt").write_bytes(text.encode())
    assert read("ner", tmp_path / "a.txt")[0] == [
        {"tokens": ["{", "王"], "labels": ["O", "B-PER"]},
        {"tokens": ["京"], "labels": ["B-LOC"]},
    ]


def test_a_number_behind_each_character_is_no_part_of_it(tmp_path):
    text = "科0\tB-ORG.NOM\n技1\tI-ORG.NOM\n20\tO\n\n～0\tO\n在0\tO\n京1\tO\n沪2\tO\n"
    examples, _ = read("ner", tmp_path / "weiboNER_2nd_conll.train", text)
    assert [each["tokens"] for each in examples] == [["科", "技", "2"], ["～", "在", "京", "沪"]]
    for words in ("科0 技1 全2 国", "A0 B2", "A0 B0", "10 11 甲12"):
        text = "".join(f"{word}\tO\n" for word in words.split())
        assert read("ner", tmp_path / "a.conll", text)[0][0]["tokens"] == words.split()
