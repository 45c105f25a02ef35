"""Files in the forms in which data sets are published, as examples of our tasks."""

import gzip
import json
from datetime import datetime
from decimal import Decimal

import pyarrow as pa
import pytest
from pyarrow import parquet

from pipeline.finetuning.examples.task_file import DataMistakes
from tests.pipeline.finetuning.examples.reading import lines, read

ENTITY = {"text": "好王明", "entities": [{"start": 1, "end": 3, "type": "x", "text": "王明"}]}
SQUAD = {
    "version": "v1.0",
    "data": [
        {
            "paragraphs": [
                {
                    "id": "DEV_0",
                    "context": "在北京。",
                    "qas": [
                        {
                            "question": "哪？",
                            "id": "DEV_0_QUERY_0",
                            "answers": [{"text": "北京", "answer_start": 1}],
                        }
                    ],
                }
            ],
            "title": "DEV_0",
        }
    ],
}
CMRC = [
    {
        "context_id": "DEV_0",
        "context_text": "在北京。",
        "qas": [{"query_text": "哪？", "query_id": "DEV_0_QUERY_0", "answers": ["北京"]}],
        "title": "北京",
    }
]
C3 = [
    [
        ["男：你去哪？", "女：北京。"],
        [{"question": "女的去哪？", "choice": ["上海", "北京"], "answer": "北京"}],
        "25-3",
    ]
]
CLUENER = {
    "text": "叶老桂在浙商银行",
    "label": {"name": {"叶老桂": [[0, 2]]}, "company": {"浙商银行": [[4, 7]]}},
}
WSC = {
    "target": {"span2_index": 5, "span1_index": 0, "span1_text": "王明", "span2_text": "他"},
    "idx": 0,
    "label": "true",
    "text": "王明说，后他走了",
}
NAME, COMPANY = ["B-name", "I-name", "I-name"], ["B-company", *["I-company"] * 3]
PUBLISHED = [
    (
        "pair",
        "afqmc.json",
        lines({"sentence1": "甲", "sentence2": "乙", "label": "0"}),
        {"label": "0"},
    ),
    (
        "classification",
        "tnews.json",
        lines({"label": "108", "label_desc": "news_edu", "sentence": "上课", "keywords": ""}),
        {"text": "上课", "label": "108"},
    ),
    ("classification", "wsc.json", lines(WSC), {"text": "[王明]说，后_他_走了", "label": "true"}),
    (
        "pair",
        "csl.json",
        lines({"id": 1, "abst": "摘要", "keyword": ["甲", "乙"], "label": "1"}),
        {"sentence1": "甲 乙", "sentence2": "摘要"},
    ),
    (
        "ner",
        "cluener.json",
        lines(CLUENER),
        {"tokens": [*CLUENER["text"]], "labels": [*NAME, "O", *COMPANY]},
    ),
    (
        "span",
        "cmrc.json",
        json.dumps(SQUAD),
        {
            "context": "在北京。",
            "question": "哪？",
            "id": "DEV_0_QUERY_0",
            "answers": [{"text": "北京", "start": 1}],
        },
    ),
    (
        "span",
        "cmrc2018_trial.json",
        json.dumps(CMRC, indent=1),
        {"id": "DEV_0_QUERY_0", "answers": [{"text": "北京", "start": 1}]},
    ),
    (
        "span",
        "flat.jsonl",
        lines(
            {
                "context": "在北京。",
                "question": "哪？",
                "answers": {"text": ["北京"], "answer_start": [1]},
            }
        ),
        {"answers": [{"text": "北京", "start": 1}]},
    ),
    (
        "choice",
        "c3.json",
        json.dumps(C3, indent=2),
        {
            "context": "男：你去哪？\n女：北京。",
            "question": "女的去哪？",
            "choices": ["上海", "北京"],
            "answer": 1,
            "id": "25-3",
        },
    ),
    (
        "classification",
        "chnsenticorp.tsv",
        'label\ttext_a\n1\t"很好\n',
        {"text": '"很好', "label": "1"},
    ),
    (
        "classification",
        "ChnSentiCorp_htl_all.csv",
        'label,review\n1,"很好，\n""真""的"\n',
        {"text": '很好，\n"真"的', "label": "1"},
    ),
    ("pair", "lcqmc.txt", "甲\t乙\t1\n", {"sentence1": "甲", "sentence2": "乙", "label": "1"}),
    (
        "pair",
        "xnli.tsv",
        "premise\thypo\tlabel\n甲\t乙\tneutral\n",
        {"sentence1": "甲", "sentence2": "乙", "label": "neutral"},
    ),
    ("similarity", "sts.csv", "sentence1,sentence2,score\n甲,乙,2.5\n", {"label": 2.5}),
    ("similarity", "sts.csv", "sentence1, sentence2, score\n甲,乙,2.5\n", {"label": 2.5}),
    (
        "ner",
        "example.train",
        "王 B-PER\n明 I-PER\n\n京 B-LOC\n",
        {"tokens": ["王", "明"], "labels": ["B-PER", "I-PER"]},
    ),
    ("ner", "weibo.conll", "王\tB-PER\n\tO\n", {"tokens": ["王", " "], "labels": ["B-PER", "O"]}),
    (
        "ner",
        "table.tsv",
        "tokens\tlabels\n王 明\tB-PER I-PER\n",
        {"tokens": ["王", "明"], "labels": ["B-PER", "I-PER"]},
    ),
    ("ner", "spaces.conll", "王 \tB-PER\n明\t I-PER \n", {"tokens": ["王", "明"]}),
    (
        "ner",
        "doccano.jsonl",
        lines({"id": 1, "text": "王明在", "label": [[0, 2, "P"]]}),
        {"tokens": ["王", "明", "在"], "labels": ["B-P", "I-P", "O"]},
    ),
    (
        "ner",
        "triples.jsonl",
        lines({"text": "王明在", "entities": [[0, 2, "P"]]}),
        {"tokens": ["王", "明", "在"], "labels": ["B-P", "I-P", "O"]},
    ),
    (
        "span",
        "bare.csv",
        "context,question,answers\n在北京。,哪？,北京\n",
        {"answers": [{"text": "北京", "start": 1}]},
    ),
    (
        "span",
        "one.jsonl",
        lines(
            {
                "context": "在北京。",
                "question": "哪？",
                "answers": {"text": "北京", "answer_start": 1},
            }
        ),
        {"answers": [{"text": "北京", "start": 1}]},
    ),
    (
        "choice",
        "choices.csv",
        'context,question,choices,answer\n甲,乙,"[""去 北京"", ""去 上海""]",0\n',
        {"choices": ["去 北京", "去 上海"], "answer": 0},
    ),
    (
        "choice",
        "hugging_face_c3.jsonl",
        lines({"context": ["甲", "乙"], "question": "？", "choice": ["好", "坏"], "answer": "坏"}),
        {"context": "甲\n乙", "choices": ["好", "坏"], "answer": 1},
    ),
    *(
        (
            "classification",
            f"wsc_{text}.json",
            lines(
                {
                    "target": {
                        "span1_text": "他的父亲",
                        "span1_index": 0,
                        "span2_text": text,
                        "span2_index": place,
                    },
                    "text": "他的父亲他说",
                    "label": "true",
                }
            ),
            {"text": marked},
        )
        for text, place, marked in (
            ("他", 0, "[_他_的父亲]他说"),
            ("父亲", 2, "[他的_父亲_]他说"),
            ("他说", 4, "[他的父亲]_他说_"),
        )
    ),
    (
        "ner",
        "msra_of_paddle.tsv",
        "text_a\tlabel\n在\x02 \x02京\tO\x02O\x02B-LOC\n好\tO\n",
        {"tokens": ["在", " ", "京"], "labels": ["O", "O", "B-LOC"]},
    ),
    ("ner", "labels.csv", "text,label\n在京,O B-LOC\n", {"labels": ["O", "B-LOC"]}),
    ("ner", "excel.csv", "在,O\n京,B-LOC\n,\n好,O\n,\n", {"labels": ["O", "B-LOC"]}),
    ("ner", "wnut.tsv", "在\tO\n京\tB-LOC\n\t\n好\tO\n", {"labels": ["O", "B-LOC"]}),
    *(
        (
            "ner",
            f"{start}_{kind}.jsonl",
            lines({"text": "好王明", "entities": [{start: 1, end: 3, kind: "x"}]}),
            {"labels": ["O", "B-x", "I-x"]},
        )
        for start, end, kind in (
            ("start", "end", "label"),
            ("start_offset", "end_offset", "label"),
            ("start_pos", "end_pos", "label_type"),
        )
    ),
    *(
        (
            "ner",
            f"end_{end}.json",
            json.dumps(
                [
                    {
                        "text": "好王明王",
                        "entities": [
                            {"start_idx": 1, "end_idx": end, "type": "x", "entity": "王明"}
                        ],
                    }
                ]
            ),
            {"labels": ["O", "B-x", "I-x", "O"]},
        )
        for end in (2, 3)  # the second edition of CMeEE includes the end
    ),
    *(
        ("ner", f"empty_{key}.jsonl", lines(ENTITY | {key: []}), {"labels": ["O", "B-x", "I-x"]})
        for key in ("label", "labels")
    ),
    *(
        ("ner", "spaced_type.jsonl", lines(row), {"labels": ["O", "B-产品 名", "I-产品 名"]})
        for row in (
            {"text": "好王明", "label": [[1, 3, "产品 名"]]},
            {"text": "好王明", "label": {"产品 名": {"王明": [[1, 2]]}}},
            {"tokens": ["好", "王", "明"], "labels": ["O", "B-产品 名", "I-产品 名"]},
        )
    ),
    ("multilabel", "topics.csv", 'text,labels\n好,"[""甲"", ""乙""]"\n', {"labels": ["乙", "甲"]}),
]


@pytest.mark.parametrize(("task", "name", "text", "expected"), PUBLISHED, ids=lambda value: value)
def test_published_files_are_read_as_they_are(task, name, text, expected, tmp_path):
    examples, findings = read(task, tmp_path / name, text)
    assert findings.problems == findings.bad_lines == []
    assert {key: examples[0][key] for key in expected} == expected
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
    assert read(task, tmp_path / f"{name}.gz")[0] == examples


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "a.jsonl",
            '{"context": "京在京", "question": "哪", "answers": ["京"], "answer_starts": [2]}',
        ),
        ("b.jsonl", '{"context": "京在京", "question": "哪", "answers": "京", "answer_start": 2}'),
        ("a.csv", "context,question,answers,answer_start\n京在京,哪,京,2\n"),
    ],
)
def test_places_of_answers_may_stand_beside_their_texts(name, text, tmp_path):
    """PaddleNLP has them so. The first place of the text was taken."""
    (example,), _ = read("span", tmp_path / name, text)
    assert example["answers"] == [{"text": "京", "start": 2}]
    (told,) = read("span", tmp_path / name, text.replace("2", "1"))[1].bad_lines
    assert "'京' does not stand at character 1" in told


def test_the_outermost_of_nested_entities_are_read(tmp_path):
    places = [(1, 3, "x"), (1, 4, "x"), (2, 3, "x"), (1, 4, "y"), (4, 5, "x")]
    row = {"text": "好王明王好", "entities": [list(each) for each in places]}
    (example,), findings = read("ner", tmp_path / "a.jsonl", lines(row))
    assert example["labels"] == ["O", "B-x", "I-x", "I-x", "B-x"]
    assert set(example) == {"text", "tokens", "labels"}
    assert "3 of 5 entities lie in others" in findings.notes[0]
    row["entities"].append([3, 5, "x"])
    _, findings = read("ner", tmp_path / "a.jsonl", lines(row))
    assert "line 1: the entity from 3 to 5 shares characters" in findings.bad_lines[0]


def test_parquet_rows_are_examples(tmp_path):
    table = {"tokens": [["王", "明"], ["京"]], "labels": [["B-PER", "I-PER"], ["O", "O"]]}
    parquet.write_table(pa.table(table), tmp_path / "a.parquet")
    examples, findings = read("ner", tmp_path / "a.parquet")
    assert examples == [{"tokens": ["王", "明"], "labels": ["B-PER", "I-PER"]}]
    assert findings.bad_lines == [f"{tmp_path}/a.parquet, row 2: 1 tokens but 2 labels"]
    dated = {
        "text": ["好"],
        "label": [1],
        "date": [datetime(2026, 1, 2)],
        "price": [Decimal("1.5")],
    }
    parquet.write_table(pa.table(dated), tmp_path / "c.parquet")
    (example,), _ = read("classification", tmp_path / "c.parquet")
    assert json.loads(json.dumps(example)) == example
    parquet.write_table(pa.table({"text": [b"a"], "label": [1]}), tmp_path / "d.parquet")
    findings = read("classification", tmp_path / "d.parquet")[1]
    assert "key text: expected str" in findings.bad_lines[0]
    (tmp_path / "b.parquet").write_bytes(b"nothing")
    assert "b.parquet" in read("ner", tmp_path / "b.parquet")[1].problems[0]


@pytest.mark.parametrize("listed", [lambda each: {"feature": each}, lambda each: [each]])
def test_hugging_faces_names_of_classes_are_those_of_labels(listed, tmp_path):
    tags = {"names": ["O", "B-PER", "I-PER"], "_type": "ClassLabel"}
    features = {"tokens": listed({"dtype": "string"}), "ner_tags": listed(tags), "kind": tags}
    table = pa.table({"tokens": [["在", "王", "明"]], "ner_tags": [[0, 1, 2]], "kind": [1]})
    info = {"huggingface": json.dumps({"info": {"features": features}})}
    parquet.write_table(table.replace_schema_metadata(info), tmp_path / "a.parquet")
    (example,), findings = read("ner", tmp_path / "a.parquet")
    assert findings == DataMistakes.none()
    assert example["labels"] == ["O", "B-PER", "I-PER"]
    assert example["kind"] == 1
    parquet.write_table(table, tmp_path / "b.parquet")
    assert "0 is not O, B-TYPE" in read("ner", tmp_path / "b.parquet")[1].bad_lines[0]


def test_a_row_of_parquet_that_is_not_utf_8_is_named(tmp_path):
    data = pa.array(["很好".encode(), b"\xff", "很坏".encode()], pa.binary())
    text = pa.Array.from_buffers(pa.string(), 3, data.buffers())
    parquet.write_table(pa.table({"text": text, "label": [1, 0, 0]}), tmp_path / "a.parquet")
    examples, findings = read("classification", tmp_path / "a.parquet")
    assert [each["text"] for each in examples] == ["很好", "很坏"]
    (told,) = findings.bad_lines
    assert told.startswith(f"{tmp_path}/a.parquet, row 2: 'utf-8' codec can't decode byte 0xff")


def test_a_text_of_a_table_may_begin_with_a_brace(tmp_path):
    text = "{甲}\t好\t1\n乙\t坏\t0\n"
    examples, findings = read("pair", tmp_path / "a.txt", text)
    assert findings == DataMistakes.none()
    assert [each["sentence1"] for each in examples] == ["{甲}", "乙"]


def test_white_space_is_no_part_of_a_label(tmp_path):
    text = "label\ttext\n1 \t好\n\u30001\t坏\n \t坏\n"
    examples, findings = read("classification", tmp_path / "a.tab", text)
    assert [each["label"] for each in examples] == ["1", "1"]
    assert findings.bad_lines == [f"{tmp_path}/a.tab, line 4, key label: it is blank"]
    rows = lines({"text": "好", "labels": ["新 ", "大"]})
    assert read("multilabel", tmp_path / "a.jsonl", rows)[0][0]["labels"] == ["大", "新"]
    rows = lines({"tokens": ["王", "明"], "labels": ["B-X ", "I-X\r"]})
    assert read("ner", tmp_path / "b.jsonl", rows)[0][0]["labels"] == ["B-X", "I-X"]


def test_columns_can_be_named_or_counted(tmp_path):
    named = {"columns": {"text": "review", "label": "stars"}}
    text = "id,stars,review\n7,5,很好\n"
    assert read("classification", tmp_path / "a.csv", text, **named)[0] == [
        {"id": "7", "text": "很好", "label": "5"}
    ]
    counted = {"columns": {"label": 0, "text": 1}}
    (example,), _ = read("classification", tmp_path / "b.tsv", "5\t很好\n", **counted)
    assert (example["text"], example["label"]) == ("很好", "5")
    (problem,) = read("classification", tmp_path / "b.tsv")[1].problems
    assert "line 1: '5, 很好' does not name the columns (text); set data.columns" in problem
    text = "text,情感\n很好,5\n不好,1\n"
    (problem,) = read("classification", tmp_path / "d.csv", text)[1].problems
    assert "no example has the key 'label'; if it has another name here" in problem
    assert problem.endswith("as {label: 情感}")
    (wrong,) = read("classification", tmp_path / "c.jsonl", lines({"x": 1}), **named)[1].bad_lines
    assert "c.jsonl, line 1: no 'review'; there is x" in wrong


@pytest.mark.parametrize("name", ["cail.jsonl", "cail.parquet"])
def test_columns_can_stand_in_an_inner_object(name, tmp_path):
    row = {"fact": "被告人王某", "meta": {"accusation": ["盗窃", "抢劫"], "year": 2018}}
    columns = {"columns": {"text": "fact", "labels": "meta.accusation"}}
    if name.endswith("parquet"):
        parquet.write_table(pa.Table.from_pylist([row]), tmp_path / name)
    else:
        (tmp_path / name).write_text(lines(row), "utf-8")
    (example,), _ = read("multilabel", tmp_path / name, **columns)
    assert (example["text"], example["labels"]) == (row["fact"], ["抢劫", "盗窃"])
    columns["columns"]["text"] = "meta.law"
    (wrong,) = read("multilabel", tmp_path / name, **columns)[1].bad_lines
    assert "no 'meta.law'; there is fact, meta" in wrong
