"""Tables without names of columns, and first lines that name them after all."""

import pyarrow as pa
import pytest
from pyarrow import parquet

from pipeline.finetuning.examples.task_file import DataMistakes
from tests.pipeline.finetuning.examples.reading import lines, read

PAIRS = [("甲", "乙", "是"), ("丙", "丁", "否")] * 12


def table(*rows):
    return "".join("\t".join(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    ("heading", "task"),
    [
        (("s1", "s2", "label"), "pair"),
        (("句子1", "句子2", "标签"), "pair"),
        (("first", "second", "same"), "pair"),
        (("s1", "s2", "Score"), "similarity"),
        (("甲", "乙", "relatedness"), "similarity"),
    ],
)
@pytest.mark.parametrize("columns", [{}, {"sentence1": 0, "sentence2": 1, "label": 2}])
def test_unknown_names_of_columns_are_no_example(heading, task, columns, tmp_path):
    rows = PAIRS if task == "pair" else [(*row[:2], "1.5") for row in PAIRS]
    path = tmp_path / "a.tsv"
    (problem,) = read(task, path, table(heading, *rows), columns=columns)[1].problems
    assert "line 1" in problem
    assert (
        f"as {{sentence1: {heading[0]}, sentence2: {heading[1]}, label: {heading[2]}}}" in problem
    )
    named = dict(zip(("sentence1", "sentence2", "label"), heading, strict=True))
    examples, findings = read(task, path, columns=named)
    assert (len(examples), findings) == (len(rows), DataMistakes.none())
    examples, findings = read(task, path, table(*rows), columns=columns)
    assert (len(examples), findings) == (len(rows), DataMistakes.none())


def test_a_label_that_stands_once_in_a_few_rows_is_a_label(tmp_path):
    rows = table(("甲", "乙", "或"), *PAIRS[:6])
    examples, findings = read("pair", tmp_path / "a.tsv", rows)
    assert (len(examples), findings.problems) == (7, [])


@pytest.mark.parametrize("rare", ["-1", "5", "是"])
def test_a_first_line_with_a_rare_label_is_an_example(rare, tmp_path):
    rows = [(*row[:2], str(place % 2)) for place, row in enumerate(PAIRS)]
    rows = rows if rare != "是" else [*PAIRS, ("甲", "乙", "或")]
    examples, findings = read("pair", tmp_path / "a.tsv", table(("甲", "乙", rare), *rows))
    assert (len(examples), findings.problems) == (len(rows) + 1, [])


@pytest.mark.parametrize("name", ["a.tsv", "a.csv"])
def test_names_of_columns_that_stand_again_are_no_example(name, tmp_path):
    """As in files that were joined."""
    text = table(("text", "label"), ("好", "1"), ("text", " label"), ("坏", "0"))
    text = text if name == "a.tsv" else text.replace("\t", ",")
    examples, findings = read("classification", tmp_path / name, text)
    assert [each["label"] for each in examples] == ["1", "0"]
    assert findings.bad_lines == [
        f"{tmp_path}/{name}, line 3: the names of the columns again, not an example"
    ]


def test_an_identifier_is_no_sentence(tmp_path):
    path = tmp_path / "a.tsv"
    text = table(*((f"test-{place}", *row[:2]) for place, row in enumerate(PAIRS)))
    (problem,) = read("pair", path, text, target_needed=False)[1].problems
    assert "'test-0' and all that stands below it looks like an identifier" in problem
    assert "as {sentence1: 1, sentence2: 2}" in problem
    counted = {"sentence1": 1, "sentence2": 2}
    assert len(read("pair", path, target_needed=False, columns=counted)[0]) == len(PAIRS)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt", "a.parquet"])
def test_a_name_of_two_columns_is_refused(name, tmp_path):
    path, names = tmp_path / name, ["text", "label", "label"]
    if name.endswith("parquet"):
        parquet.write_table(pa.Table.from_arrays([["好"], ["a"], ["b"]], names), path)
    else:
        rows = table(names, ("好", "a", "b"))
        path.write_text(rows.replace("\t", ",") if name.endswith("csv") else rows, "utf-8")
    (problem,) = read("classification", path)[1].problems
    assert "the column 'label' occurs twice" in problem


def test_columns_without_a_name_do_no_harm(tmp_path):
    examples, findings = read("classification", tmp_path / "a.csv", "text,label,,\n好,a,,\n")
    assert (examples, findings) == ([{"text": "好", "label": "a"}], DataMistakes.none())


def test_numbers_of_columns_are_for_tables(tmp_path):
    row, counted = {"text": "好", "label": "a"}, {"columns": {"text": 0, "label": 1}}
    parquet.write_table(pa.Table.from_pylist([row]), tmp_path / "a.pq")
    for name, text in (("a.pq", None), ("a.json", lines(row)), ("a.txt", lines(row))):
        (problem,) = read("classification", tmp_path / name, text, **counted)[1].problems
        assert f"{name}: data.columns says {{text: 0}}, but here columns have names" in problem
    beyond = {"columns": {"text": 2, "label": 0}}
    (problem,) = read("classification", tmp_path / "a.tsv", "a\t好\n", **beyond)[1].problems
    assert "data.columns says {text: 2}, but there are 2 column(s), counted from 0" in problem


@pytest.mark.parametrize("name", ["a.tsv", "a.tab", "a.csv"])
def test_words_with_labels_may_stand_in_a_table(name, tmp_path):
    text = "王\tB-P\n明\tI-P\n\n,\tO\n"
    if name.endswith("csv"):
        text = text.replace(",", '","').replace("\t", ",")
    examples, findings = read("ner", tmp_path / name, text)
    assert findings == DataMistakes.none()
    assert examples == [
        {"tokens": ["王", "明"], "labels": ["B-P", "I-P"]},
        {"tokens": [","], "labels": ["O"]},
    ]
    counted = {"columns": {"tokens": 0, "labels": 1}}
    assert read("ner", tmp_path / name, **counted)[0] == examples


def test_a_table_of_sentences_is_none_of_words(tmp_path):
    rows = table(("王", "B-P"), ("王 明", "B-P I-P"))
    counted = {"columns": {"tokens": 0, "labels": 1}}
    assert len(read("ner", tmp_path / "a.tsv", rows, **counted)[0]) == 2
    (problem,) = read("ner", tmp_path / "a.tsv")[1].problems
    assert "'王, B-P' does not name the columns (tokens or text)" in problem
    assert "as {tokens: 0, labels: 1}" in problem


def test_spaces_behind_commas_are_no_part_of_a_quoted_text(tmp_path):
    text = 'label, text\n0, "好, 很好"\n1, "他说""坏"""\n'
    examples, findings = read("classification", tmp_path / "a.csv", text)
    assert [each["text"] for each in examples] == ["好, 很好", '他说"坏"']
    assert findings == DataMistakes.none()


@pytest.mark.parametrize("row", [r'0,"他说\"好\"。"', '0,"他说'])
def test_a_quote_that_no_csv_has_is_refused_with_its_line(row, tmp_path):
    """Such a text was read with other signs, or with all rows behind it."""
    rows = f"label,text\n1,坏\n{row}\n1,差\n"
    (problem,) = read("classification", tmp_path / "a.csv", rows)[1].problems
    assert "a.csv, line 3: " in problem
    assert "quotes are written twice" in problem


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
@pytest.mark.parametrize("head", ["", "\n \n", "sep={}\n", "\nsep={}\n\n"])
@pytest.mark.parametrize("heading", ["label{}text", '"label"{}"text"', "label{} text"])
def test_csv_has_the_delimiter_that_its_heading_shows(mark, head, heading, tmp_path):
    text = (head + heading).replace("{}", mark) + f'\n1{mark}"好;坏 , 行"\nx{mark}y{mark}z\n'
    examples, findings = read("classification", tmp_path / "a.csv", text)
    assert examples == [{"label": "1", "text": "好;坏 , 行"}]
    last = text.count("\n")
    assert findings.bad_lines == [f"{tmp_path}/a.csv, line {last}: 3 columns, expected label, text"]


@pytest.mark.parametrize(
    ("name", "text", "advice"),
    [
        ("sts.txt", "1||甲||乙||5\n", "label: 2}; tabs divide columns here"),
        ("atec.csv", "1\t甲\t乙\t1\n", "commas divide columns here: call a file with tabs .tsv"),
    ],
)
def test_what_divides_columns_is_told_where_nothing_does(name, text, advice, tmp_path):
    (problem,) = read("similarity", tmp_path / name, text)[1].problems
    assert advice in problem
    columns = {"sentence1": 1, "sentence2": 2, "label": 3}
    (problem,) = read("similarity", tmp_path / name, columns=columns)[1].problems
    assert "there are 1 column(s), counted from 0; " in problem
