"""CSV and TSV: delimiters, quotes, encodings, and rows that are no text."""

import csv
import io
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus.text import csv_rows
from pipeline.errors import CorpusError
from tests.pipeline.corpus import raw

FIELDS = st.text(st.sampled_from("天地，。\"',\t\n\r ;a"), max_size=12)


def written(rows, delimiter=",") -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter).writerows(rows)
    return text.getvalue().encode()


@given(st.lists(st.tuples(FIELDS, FIELDS), min_size=1), st.integers(5, 300), st.booleans())
def test_what_a_csv_writer_writes_is_read_back_for_any_shard_size(rows, target, tabs):
    suffix, delimiter = ("tsv", "\t") if tabs else ("csv", ",")
    if tabs:  # a field with tabs on each of its lines cannot be told from rows that are not quoted
        rows = [tuple(field.replace("\t", " ") for field in row) for row in rows]
    # Nor can, in CSV, one whose lines begin with the value of the column before it.
    rows = [(f"行{field}", text) for field, text in rows]
    data = written([("id", "text"), *rows], delimiter)
    with tempfile.TemporaryDirectory() as folder:
        for compression in ("", ".gz"):
            path = raw.write(Path(folder) / f"a.{suffix}{compression}", data)
            documents, dropped = raw.read(path, shard_megabytes=target / 1e6)
            assert [document.text for document in documents] == [text for _, text in rows]
            assert not dropped
            assert len({document.number for document in documents}) == len(rows)


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "gb18030", "utf-16", "utf-32", "big5"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_csv_in_any_encoding_and_with_any_line_end(tmp_path, codec, ends):
    rows = ['"text",id', *(f'"第{n}行，他說""好""。{ends}第二段",{n}' for n in range(30))]
    path = raw.write(tmp_path / "a.csv", (ends.join(rows) + ends).encode(codec))
    settings = {"encoding": "big5"} if codec == "big5" else {}
    expected = [f'第{n}行，他說"好"。{ends}第二段' for n in range(30)]
    assert raw.texts(path, **settings) == expected
    assert raw.texts(path, shard_megabytes=1e-4, **settings) == expected


def test_the_column_can_be_named_and_a_missing_one_is_said_before_any_work(tmp_path):
    path = raw.write(tmp_path / "a.csv", written([("id", "content"), ("1", "正文")]))
    assert raw.texts(path, text_field="content") == ["正文"]
    with pytest.raises(CorpusError, match=r"a\.csv: no column 'text'.*id, content"):
        raw.read(path)


@pytest.mark.parametrize(
    ("name", "head", "mark"),
    [
        ("a.csv", "id, text ", ","),
        ("a.csv", "id;text", ";"),
        ("a.csv", 'id\t"text"', "\t"),
        ("a.csv", "\ufeffsep=|\r\nid|text", "|"),
        ("a.csv", "\n\nid,text", ","),
        ("a.csv", "id|text", "|"),
        ("a.tsv", "id;text", ";"),
        ("a.tsv", '"id\ttext', "\t"),
    ],
)
def test_headers_as_programs_write_them(tmp_path, name, head, mark):
    rows = "".join(f"{mark}".join([str(n), f'"第{n}行，{mark}"']) + "\n" for n in range(5))
    path = raw.write(tmp_path / name, f"{head}\n{rows}".encode())
    assert raw.texts(path) == [f"第{n}行，{mark}" for n in range(5)]


def test_an_open_quote_in_the_header_is_an_error(tmp_path):
    path = raw.write(tmp_path / "a.csv", 'id,"text\n1,正文\n'.encode())
    with pytest.raises(CorpusError, match=r"a\.csv: a quote in the header is not closed"):
        raw.read(path)


def test_rows_that_are_no_text_are_dropped_and_the_rest_is_read(tmp_path):
    data = (
        "text,id\n好一,1\n".encode()
        + b"\xff\xfe,2\n"
        + "好二,\xff\n".encode("latin-1", "replace").replace(b"?", "好".encode())
        + "太,多,列\n\n好三\n好四,4,,\n".encode()
    )
    path = raw.write(tmp_path / "a.csv", data)
    documents, dropped = raw.read(path, encoding="utf-8")
    assert [document.text for document in documents] == ["好一", "好好", "好三", "好四"]
    assert [(drop.reason, drop.place.rpartition(":")[2]) for drop in dropped] == [
        ("undecodable", "3"),
        ("malformed", "5"),
    ]


def test_an_open_quote_drops_one_line_only(tmp_path):
    lines = ["text,id", "甲,1", '"乙,2', '"丙",3', "丁,4", '"戊', "己,6"]
    path = raw.write(tmp_path / "a.csv", "\n".join(lines).encode())
    documents, dropped = raw.read(path)
    assert [document.text for document in documents] == ["甲", "丙", "丁", "己"]
    assert [drop.reason for drop in dropped] == ["malformed", "malformed"]


def test_a_quote_in_tsv_without_quoting_is_text(tmp_path):
    path = raw.write(tmp_path / "a.tsv", '标签\ttext\n1\t"好"吗\n2\t"是\n3\t5"屏\n'.encode())
    assert raw.texts(path) == ['"好"吗', '"是', '5"屏']


@pytest.mark.parametrize("mark", [";", ",", "|"])
def test_a_quote_in_tsv_is_text_whatever_the_delimiter(tmp_path, mark):
    text = f'id{mark}text\n1{mark}"是\t甲\n2{mark}好\n'
    path = raw.write(tmp_path / "a.tsv", text.encode())
    assert raw.texts(path) == ['"是\t甲', "好"]


def test_a_quote_in_tsv_swallows_no_rows(tmp_path):
    """It closes in a later row; a field of several lines is told by the fields of its lines."""
    path = raw.write(tmp_path / "a.tsv", '标签\ttext\n1\t"是\n2\t否\n3\t好"\n4\t完\n'.encode())
    assert raw.texts(path) == ['"是', "否", '好"', "完"]
    path = raw.write(tmp_path / "b.tsv", 'text\t标签\n"一行\n二行"\t1\n三\t2\n'.encode())
    assert raw.texts(path) == ["一行\n二行", "三"]


@pytest.mark.parametrize("between", [0, 1, 5, 50])
@pytest.mark.parametrize(
    ("head", "first", "row", "last"),
    [
        ("id,text", '0,"开', "{n},第{n}行", '99,关",好'),  # the record has too many fields
        ("id,text,x", '0,"开,a', "{n},第{n}行,b", '99,关",c'),
        ("text,id", '"开,0', "第{n}行,{n}", '关",99'),
        ("label,text", '好,"开', "好,第{n}行", '好,关"'),
        ("day,text", '1998-01-01,"开', "1998-01-01,第{n}行", '1998-01-01,关"'),
    ],
)
def test_a_quote_in_csv_swallows_no_rows(tmp_path, head, first, row, last, between):
    lines = [head, first, *(row.format(n=n) for n in range(between)), last, row.format(n="末")]
    path = raw.write(tmp_path / "a.csv", "\n".join(lines).encode())
    documents, dropped = raw.read(path)
    texts = [document.text for document in documents]
    assert [text for text in texts if "关" not in text] == [
        f"第{n}行" for n in (*range(between), "末")
    ]
    assert dropped[0].reason == "malformed"
    assert all("第" not in drop.text for drop in dropped)


def test_fields_of_csv_with_line_breaks_and_commas_stay_whole(tmp_path):
    texts = ["一,二\n三", "一\n二,三", "1,二\n3,四\n5", "\n".join(["甲,乙"] * 5), "a,b,c\n\nd,e,f"]
    texts.append("长恨歌\n" + "\n".join(f"上句{n},下句{n}" for n in range(60)))
    for header in (("id", "text"), ("text", "label"), ("id", "text", "label")):
        rows = [[text if name == "text" else "是" for name in header] for text in texts]
        path = raw.write(tmp_path / "a.csv", written([header, *rows]))
        assert raw.texts(path) == texts


@pytest.mark.parametrize("tabs", [False, True])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("header", [("id", "text"), ("text", "id"), ("id", "text", "label")])
def test_quotes_that_a_backslash_escapes(tmp_path, header, end, tabs):
    """As Spark, and MySQL on demand, write them; a file may hold such rows beside others."""
    mark = "\t" if tabs else ","
    texts = ['他说"好"。', f'"开{mark}"头', '行末"', f'他说"好{end}第二行']
    texts += [f'"好"{mark}"不"', "C:\\"]
    rows = [dict.fromkeys(header, "1") | {"text": text} for text in [*texts, "完"]]
    quoted = [
        mark.join('"' + value.replace('"', '\\"') + '"' for value in row.values()) for row in rows
    ]
    data = end.join([mark.join(header), *quoted, ""]).encode()
    path = raw.write(tmp_path / ("a.tsv" if tabs else "a.csv"), data)
    documents, dropped = raw.read(path)
    assert [document.text for document in documents] == [*texts, "完"]
    assert not dropped


def test_rows_that_escape_quotes_tell_how_later_ones_are_read(tmp_path):
    """By itself each of these, with the next row, is also a row whose quotes are doubled."""
    texts = ['他说"好"。', '开"', "\n二\n", '好"', "\n三"]
    quoted = [text.replace('"', '\\"') for text in texts]
    rows = "".join(f'{number},"{text}"\n' for number, text in enumerate(quoted))
    assert raw.texts(raw.write(tmp_path / "a.csv", f"id,text\n{rows}".encode())) == texts
    doubled = ['他说"好"。', "C:\\", '反斜线\\"和"引号', "C:\\", "完"]
    path = raw.write(tmp_path / "b.csv", written([("id", "text"), *enumerate(doubled)]))
    assert raw.texts(path) == doubled


def test_a_space_behind_each_delimiter_is_no_part_of_a_field(tmp_path):
    data = 'id, text, label\n1, "一,二", 好\n2, "他说""好""", 好\n3, 三, 好\n'
    assert raw.texts(raw.write(tmp_path / "a.csv", data.encode())) == ["一,二", '他说"好"', "三"]


def test_the_only_column_may_hold_delimiters_without_quotes(tmp_path):
    data = 'text\n一,二\n"三,四"\n五\n'
    assert raw.texts(raw.write(tmp_path / "a.csv", data.encode())) == ["一,二", "三,四", "五"]


def test_a_field_longer_than_the_limit_of_the_csv_module(tmp_path):
    text = "很长，" * 100_000
    path = raw.write(tmp_path / "a.csv", written([("text",), (text,), ("后",)]))
    assert raw.texts(path) == [text, "后"]


def test_an_open_quote_is_not_searched_further_than_a_record_may_be(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_rows, "RECORD_BYTES", 100)
    lines = ["text", '"开', *(f"第{n}行" for n in range(50))]
    path = raw.write(tmp_path / "a.csv", "\n".join(lines).encode())
    assert raw.texts(path) == lines[2:]


def test_a_line_without_end_is_cut_so_that_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(csv_rows, "RECORD_BYTES", 100)
    pieces = list(csv_rows._lines([b"text\n", *[b"x" * 40] * 50, b"\n", b"end"]))
    assert b"".join(pieces) == b"text\n" + b"x" * 2000 + b"\nend"
    assert max(map(len, pieces)) <= 140


def test_a_message_does_not_show_a_header_of_any_length(tmp_path):
    path = raw.write(tmp_path / "a.csv", b"x" * 10**6)
    with pytest.raises(CorpusError) as error:
        raw.texts(path)
    assert len(str(error.value)) < 2000


def test_zero_bytes_and_a_second_mark_in_csv(tmp_path):
    data = "\0\0\ufeff\ufefftext,id\n甲\0,1\n\ufeff乙,2\n".encode() + b"\0" * 100
    path = raw.write(tmp_path / "a.csv", data)
    assert raw.texts(path) == ["甲", "乙"]


MULTILINE = [("1", "房间不错\n1,位置好\n2,服务好"), ("0", "一般\n1,贵\n1,远"), ("1", "很好")]


@pytest.mark.parametrize("header", [("label", "review"), ("id", "review")])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize("dialect", ["excel", "excel-tab", "unix"])
def test_lines_in_a_field_that_look_like_rows_stay_in_it(tmp_path, header, quoting, dialect):
    """The end of rows tells, which differs from that of lines in fields, or quotes without need."""
    tab = dialect == "excel-tab"
    if dialect == "unix" and quoting == csv.QUOTE_MINIMAL:
        quoting = csv.QUOTE_ALL
    rows = [(label, text.replace(",", "\t") if tab else text) for label, text in MULTILINE]
    text = io.StringIO(newline="")
    csv.writer(text, dialect=dialect, quoting=quoting).writerows([header, *rows])
    path = raw.write(tmp_path / ("a.tsv" if tab else "a.csv"), text.getvalue().encode())
    assert raw.texts(path, text_field="review") == [text for _, text in rows]
    path.write_bytes(path.read_bytes().removesuffix(b"\n").removesuffix(b"\r"))
    assert raw.texts(path, text_field="review") == [text for _, text in rows]


@pytest.mark.parametrize("header", ["label", "id", "day"])
def test_a_list_in_the_last_field_stays_whole_whatever_ends_the_lines(tmp_path, header):
    """Its numbers do not go on from that of the row, as those of rows with a stray quote do."""
    rows = [("2", text) if header == "id" else (label, text) for label, text in MULTILINE]
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([(header, "text"), *rows])
    path = raw.write(tmp_path / "a.csv", text.getvalue().encode())
    assert raw.texts(path) == [text for _, text in rows]
    stray = '1,"开\n2,第二行\n10,第十行\n11,关"\n12,末\n'
    path = raw.write(tmp_path / "b.csv", f"{header},text\n{stray}".encode())
    assert raw.texts(path) == ["第二行", "第十行", '关"', "末"]


def test_two_columns_of_the_name_are_refused(tmp_path):
    path = raw.write(tmp_path / "a.csv", written([("text", "text", "id"), ("甲", "乙", "1")]))
    with pytest.raises(CorpusError, match=r"a\.csv: 2 columns have the name 'text'"):
        raw.read(path)
    assert raw.texts(path, text_field="id") == ["1"]


def test_a_delimiter_in_quotes_shows_that_later_quotes_are_no_stray_ones(tmp_path):
    data = 'label,text\n1,"好,不错"\n1,"房间\n1,位置好"\n0,完\n'
    path = raw.write(tmp_path / "a.csv", data.encode())
    assert raw.texts(path) == ["好,不错", "房间\n1,位置好", "完"]
