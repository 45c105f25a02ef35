"""Tables without names of columns, and first lines that name them after all."""

import pytest

from pipeline.finetuning.examples.task_file import Findings
from tests.pipeline.finetuning.examples.reading import read

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
    assert (len(examples), findings) == (len(rows), Findings.none())
    examples, findings = read(task, path, table(*rows), columns=columns)
    assert (len(examples), findings) == (len(rows), Findings.none())


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


def test_an_identifier_is_no_sentence(tmp_path):
    path = tmp_path / "a.tsv"
    text = table(*((f"test-{place}", *row[:2]) for place, row in enumerate(PAIRS)))
    (problem,) = read("pair", path, text, target_needed=False)[1].problems
    assert "'test-0' and all that stands below it looks like an identifier" in problem
    assert "as {sentence1: 1, sentence2: 2}" in problem
    counted = {"sentence1": 1, "sentence2": 2}
    assert len(read("pair", path, target_needed=False, columns=counted)[0]) == len(PAIRS)
