import codecs

import pytest

from pipeline.corpus.decoding.encodings import SAMPLE_BYTES, find_codec, keeps_ascii
from pipeline.corpus.decoding.transcoding import decode, to_utf8
from tests.pipeline.corpus import raw

NEWS = "一九九八年新年讲话。中国与世界各国人民的友谊，在新的一年里将继续发展！"
OLD = "昔者莊周夢為胡蝶，栩栩然胡蝶也，自喻適志與！不知周也。俄然覺，則蘧蘧然周也。"
TAIWAN = (
    "臺灣國際關係學會於週末舉辦學術討論會，邀請專家學者針對兩岸經濟發展與區域貿易協議進行討論。"
)


@pytest.mark.parametrize("text", [NEWS, "ASCII first, then " + NEWS, OLD, TAIWAN])
@pytest.mark.parametrize("codec", ["utf-8", "gb18030", "utf-16-le", "utf-16-be"])
def test_text_without_a_mark(text, codec):
    assert find_codec((text * 20).encode(codec)) == codec


def test_big5_with_and_without_its_name():
    assert find_codec((TAIWAN * 5).encode("big5"), "big5") == "big5"
    assert find_codec((TAIWAN * 5).encode("big5")) == "big5hkscs"


@pytest.mark.parametrize(
    ("codec", "found"), [("utf-8-sig", "utf-8"), ("utf-16", "utf-16-le"), ("gbk", "gb18030")]
)
def test_marks_and_aliases(codec, found):
    assert find_codec(NEWS.encode(codec)) == found


@pytest.mark.parametrize("named", ["latin-1", "cp1252", "gb18030", "big5", "utf-16-le"])
def test_evident_utf8_is_utf8_whatever_is_named(named):
    """Some codecs decode any bytes, to garbage."""
    assert find_codec(NEWS.encode(), named) == "utf-8"
    assert find_codec("Prix: 5 €".encode(), named) == named
    if named in ("gb18030", "utf-16-le"):
        assert find_codec((NEWS * 20).encode(named), named) == named


@pytest.mark.parametrize(
    ("codec", "text"),
    [
        ("euc_kr", "모든 사람은 태어날 때부터 자유롭고, 존엄과 권리에 있어 평등하다. 1948년"),
        ("euc_jp", "すべての人間は、生まれながらにして自由であり、尊厳と権利について平等である。"),
    ],
)
def test_neighbours_are_not_read_as_chinese(codec, text):
    assert find_codec(text.encode(codec)) == codec
    assert find_codec(NEWS.encode("gb18030")) == "gb18030"
    assert find_codec("的不了".encode("gb18030")) == "gb18030"


def test_a_sample_that_ends_within_a_character_and_one_damaged_byte():
    data = (NEWS * 50).encode()
    assert find_codec(data[:1000]) == "utf-8"
    assert find_codec(data[:500] + b"\xff" + data[501:2000]) == "utf-8"


@pytest.mark.parametrize("data", [b"", b"plain ascii", bytes(range(256)) * 100])
def test_bytes_that_fit_no_codec_are_called_utf8(data):
    assert find_codec(data) == "utf-8"


@pytest.mark.parametrize("padding", [0, 1, 4, 5, 70_000, 1 << 21])
def test_zero_bytes_that_pad_a_text_do_not_count(padding):
    text = (NEWS * 20).encode()
    for data in (text + bytes(padding), text[:300] + bytes(padding) + text[300:]):
        assert find_codec(data) == "utf-8"
    if padding != 1:
        assert find_codec(bytes(padding) + text) == "utf-8"
        assert find_codec(bytes(padding) + (NEWS * 20).encode("gb18030")) == "gb18030"
    assert find_codec((NEWS * 20).encode("utf-16-le") + bytes(padding)) == "utf-16-le"


@pytest.mark.parametrize("codec", ["utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be"])
def test_wide_text_is_recognised_without_a_mark_or_by_its_mark(codec):
    for text in (NEWS * 20, '{"text": "' + NEWS + '"}\n'):
        assert find_codec(text.encode(codec)) == codec
        assert find_codec(text.encode(codec), codec[:6]) == codec
        assert find_codec(("\ufeff" + text).encode(codec), "gb18030") == codec


@pytest.mark.parametrize(
    "codec", ["utf-16", "utf-16-le", "utf-32", "utf-7", "hz", "iso2022_jp_2", "cp037"]
)
def test_codecs_in_which_ascii_bytes_mean_something_else_are_transcoded(codec):
    assert not keeps_ascii(codec)
    text = "plain text\n" if codec == "cp037" else "一 plain\ntext ~\n"
    data = text.encode(codec)
    pieces = [data[i : i + 3] for i in range(0, len(data), 3)]
    assert b"".join(to_utf8(pieces, codec)).decode() == text


@pytest.mark.parametrize("codec", ["utf-8", "gb18030", "gbk", "big5", "big5hkscs", "latin-1"])
def test_codecs_that_keep_ascii(codec):
    assert keeps_ascii(codec)


@pytest.mark.parametrize(
    ("data", "codec"),
    [(b"\x00\xd8\x00\x00", "utf-16-le"), (b"a\0b", "utf-16-le"), (b"\xff" * 8, "utf-32-le")],
)
def test_what_is_bad_in_one_codec_is_bad_in_utf8(data, codec):
    with pytest.raises(UnicodeDecodeError):
        b"".join(to_utf8([data], codec)).decode()


CODECS = ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be", "gb18030"]
LINES = [f"这是第{number}行，用来辨认编码的中文。" for number in range(40)]
TRADITIONAL = [f"這是第{number}行，用來辨認編碼的中文。" for number in range(40)]


@pytest.mark.parametrize("codec", [*CODECS, "big5"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("target", [16.0, 2e-4])
@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".csv", ".jsonl.gz"])
def test_every_format_in_every_encoding_with_and_without_a_mark(
    tmp_path, codec, mark, target, suffix
):
    lines = TRADITIONAL if codec == "big5" else LINES
    text = {
        ".txt": "\n\n".join(lines),
        ".csv": "\n".join(["text", *lines]),
        ".jsonl": raw.jsonl(lines).decode(),
    }["." + suffix.split(".")[1]]
    path = raw.write(tmp_path / f"a{suffix}", (mark + text).encode(codec, "ignore"))
    assert raw.texts(path, shard_megabytes=target) == lines
    assert raw.texts(path, shard_megabytes=target, encoding=codec) == lines


@pytest.mark.parametrize(
    "name", ["UTF-16", "utf16", "U16", "utf_16", "Utf-16LE", "utf8", "utf-8-sig", "gb18030"]
)
def test_spellings_and_a_mark_that_says_otherwise(tmp_path, name):
    path = raw.write(tmp_path / "a.txt", codecs.BOM_UTF16_LE + LINES[0].encode("utf-16-le"))
    assert raw.texts(path, encoding=name) == LINES[:1]
    if "16" in name:
        path = raw.write(tmp_path / "a.txt", "\n\n".join(LINES).encode("utf-16-le"))
        assert raw.texts(path, encoding=name) == LINES


def test_marks_and_zero_bytes_between_concatenated_files(tmp_path):
    part = codecs.BOM_UTF8 + raw.jsonl(["甲"]) + bytes(3000)
    path = raw.write(tmp_path / "a.jsonl", part + raw.jsonl(["乙"]) + part + bytes(1 << 20))
    assert raw.read(path)[1] == []
    assert raw.texts(path) == ["甲", "乙", "甲"]
    path = raw.write(tmp_path / "b.jsonl", raw.jsonl(["甲"]) + codecs.BOM_UTF8 + part)
    assert raw.texts(path) == ["甲", "甲"]
    path = raw.write(tmp_path / "a.txt", ("\ufeff甲\0\0\n\n\ufeff乙\n\n" + "\0" * 9000).encode())
    assert raw.texts(path) == ["甲", "乙"]


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be", "utf-32-le"])
@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize("size", [7, 100, 1 << 20])
def test_a_stretch_of_utf8_in_a_wide_codec_is_read_as_utf8(codec, end, size):
    wide = NEWS * 10 + end
    data = wide.encode(codec) + (NEWS * 5).encode() + ("\ufeff" + NEWS).encode(codec)
    pieces = [data[i : i + size] for i in range(0, len(data), size)]
    assert b"".join(to_utf8(pieces, codec)).decode() == wide + NEWS * 5 + "\ufeff" + NEWS


@pytest.mark.parametrize("codec", ["gb18030", "big5"])
def test_lines_in_utf8_in_a_file_in_another_codec(tmp_path, codec):
    """Many short ones are valid GB18030 too: two characters of UTF-8 are three of it."""
    lines = ["今天天氣", "中文", "今天，你好", "好", "ascii"]
    for suffix, join in ((".txt", "\n\n".join), (".csv", lambda rows: "\n".join(["text", *rows]))):
        data = join([*LINES[:1], *["的天不了一"] * 40]).encode(codec, "ignore")
        path = raw.write(tmp_path / f"a{suffix}", data + b"\n\n" + "\n\n".join(lines).encode())
        found, dropped = raw.read(path, encoding=codec)
        assert [document.text for document in found][41:] == lines
        assert not dropped


@pytest.mark.parametrize("first", ["gb18030", "big5"])
@pytest.mark.parametrize("suffix", [".txt", ".csv"])
def test_files_in_both_codecs_of_chinese_may_be_joined(tmp_path, suffix, first):
    lines = {"gb18030": LINES, "big5": TRADITIONAL}
    second = next(codec for codec in lines if codec != first)
    between = "\n\n" if suffix == ".txt" else "\n"
    data = b"text\n" if suffix == ".csv" else b""
    for codec in (first, first, second):
        data += between.join([*lines[codec], ""]).encode(codec)
    assert raw.texts(raw.write(tmp_path / f"a{suffix}", data)) == lines[first] * 2 + lines[second]


def test_kana_in_gb2312_is_not_taken_for_big5():
    """Where these bytes are the most common characters."""
    text = "これはひらがなです"
    assert decode(text.encode("gb18030"), "gb18030") == text


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".jsonl", ".jsonl.gz"])
@pytest.mark.parametrize("begin", ["plain English text", "前面的中文"])
@pytest.mark.parametrize("target", [16.0, 2e-2])
@pytest.mark.parametrize(("codec", "rest"), [("gb18030", LINES), ("big5", TRADITIONAL)])
def test_lines_in_codecs_of_chinese_in_a_file_that_begins_otherwise(
    tmp_path, suffix, begin, target, codec, rest
):
    def encode(lines: list[str], codec: str) -> bytes:
        if ".jsonl" in suffix:
            return raw.jsonl(lines).decode().encode(codec)
        return ("\n\n" if suffix == ".txt" else "\n").join([*lines, ""]).encode(codec)

    first = [f"{begin}: line {number}" for number in range(4000)]
    data = encode(first, "utf-8") + b"\n" + encode(rest, codec)
    head = b"text\n" if suffix == ".csv" else b""
    path = raw.write(tmp_path / f"a{suffix}", head + data)
    assert len(head + data) > SAMPLE_BYTES * 3 // 2
    assert raw.texts(path, shard_megabytes=target) == [*first, *rest]


def test_damaged_lines_of_utf8_are_not_read_in_another_codec(tmp_path):
    damaged = [LINES[0].encode()[:-1], LINES[0].encode().replace("第".encode(), b"\xe7\xac")]
    korean = "서울은 대한민국의 수도이다. ".encode("euc_kr")
    data = b"\n\n".join([*(line.encode() for line in LINES), *damaged, b"caf\xe9 d\xe9j\xe0"])
    documents, drops = raw.read(raw.write(tmp_path / "a.txt", data))
    assert [document.text for document in documents] == LINES
    assert [drop.reason for drop in drops] == ["undecodable"] * 3
    assert raw.texts(raw.write(tmp_path / "b.txt", korean * 9)) == [(korean * 9).decode("euc_kr")]


def test_common_words_of_gb18030_that_are_valid_utf8_stay(tmp_path):
    words = ["目前", "目前的"]
    assert words[0].encode("gb18030").decode() == "Ŀǰ"
    path = raw.write(tmp_path / "a.txt", "\n\n".join([*LINES, *words]).encode("gb18030"))
    assert raw.texts(path)[40:] == words


@pytest.mark.parametrize("size", [1, 2, 3, 5, 4097])
def test_a_file_of_zero_bytes_is_empty_whatever_its_size(tmp_path, size):
    raw.write(tmp_path / "b.txt", NEWS.encode())
    raw.write(tmp_path / "a.txt", bytes(size))
    assert [drop.reason for drop in raw.read(tmp_path)[1]] == ["empty_file"]


@pytest.mark.parametrize("size", [1, 3, 50, 1 << 20])
@pytest.mark.parametrize("codec", ["utf-16", "utf-32"])
def test_files_of_both_orders_of_bytes_may_be_joined(codec, size):
    orders = [f"{codec}-{order}" for order in ("le", "be", "be", "le")]
    data = b"".join(("\ufeff" + NEWS + "🙂").encode(order) for order in orders)
    pieces = [data[i : i + size] for i in range(0, len(data), size)]
    text = b"".join(to_utf8(pieces, find_codec(data))).decode()
    assert text == "\ufeff".join([NEWS + "🙂"] * 4)


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.json"])
def test_characters_that_unicode_got_after_pythons_gb18030(tmp_path, name):
    data = bytes.fromhex("FE59FE61FE66FE67FE6DFE7EFE90FEA0A6D9A6DAA6DBA6F3A8BCFE51")
    rows = {"a.txt": data, "a.csv": b"text\n" + data, "a.json": b'[\n{"text": "' + data + b'"}]'}
    path = raw.write(tmp_path / name, rows[name])
    assert raw.texts(path, encoding="gb18030") == ["龴龵龶龷龸龹龺龻︐︒︑︙ḿ\U00020087"]


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl", "a.json"])
@pytest.mark.parametrize(
    ("codec", "named", "line"),
    [
        ("gb18030", "gb2312", "朱镕基和陶喆在𠮷野家说①。"),
        ("gb18030", "GBK", "㐀和𠮷两个字"),
        ("big5hkscs", "big5", "嘅啲咁係喺香港粵語"),
    ],
)
def test_a_named_codec_stands_for_its_superset(tmp_path, name, codec, named, line):
    """Programs call texts in GB18030 GB2312 or GBK, and those of Hong Kong Big5."""
    rows = {
        "a.txt": line,
        "a.csv": f"text\n{line}\n",
        "a.jsonl": f'{{"text": "{line}"}}\n',
        "a.json": f'[\n{{"text": "{line}"}}]',
    }
    path = raw.write(tmp_path / name, rows[name].encode(codec))
    assert raw.read(path, encoding=named)[1] == []
    assert raw.texts(path, encoding=named) == [line]


@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.json"])
@pytest.mark.parametrize("encoding", ["auto", "gbk", "cp936"])
def test_the_euro_of_windows_is_read_in_gb18030(tmp_path, name, encoding):
    line = NEWS.encode("gb18030") + b"\x80" + "100，约合人民币八百元。".encode("gb18030")
    rows = {"a.txt": line, "a.csv": b"text\n" + line, "a.json": b'[\n{"text": "' + line + b'"}]'}
    path = raw.write(tmp_path / name, rows[name])
    assert raw.texts(path, encoding=encoding) == [NEWS + "€100，约合人民币八百元。"]


@pytest.mark.parametrize("encoding", ["auto", "big5", "cp950"])
def test_lines_in_both_extensions_of_big5(tmp_path, encoding):
    taiwan, hong_kong = "今天天氣很好，這本書要€100。", "今日天氣好好，佢哋喺圖書館睇書。"
    data = taiwan.encode("cp950") + b"\n\n" + hong_kong.encode("big5hkscs")
    assert raw.texts(raw.write(tmp_path / "a.txt", data), encoding=encoding) == [taiwan, hong_kong]
