import pytest

from pipeline.corpus import planning
from pipeline.corpus.samples import segmentation
from pipeline.corpus.samples.segmentation import load_segmenter
from pipeline.corpus.samples.user_dictionary import Entry, read_user_dictionary
from pipeline.errors import ConfigError
from pipeline.settings.corpus import CorpusSettings
from tests.pipeline.corpus import raw


def test_fields_and_their_defaults(tmp_path):
    path = tmp_path / "words.txt"
    path.write_bytes(
        b"\xef\xbb\xbf"
        + "云计算 5000 n\r\n\n领先者\n新词 nz\nC++ 3\n制表\t7\tn\nEdu Trust认证 2000\n".encode()
    )
    assert read_user_dictionary(str(path)) == [
        Entry("云计算", 5000, "n"),
        Entry("领先者", None, ""),
        Entry("新词", None, "nz"),
        Entry("C++", 3, ""),
        Entry("制表", 7, "n"),
        Entry("Edu Trust认证", 2000, ""),
    ]


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_lines_end_in_any_way_and_digits_may_be_full_width(tmp_path, ends):
    path = raw.write(
        tmp_path / "words.txt", ends.join(["云计算 ５０", "", "大数据　７ n"]).encode()
    )
    expected = [Entry("云计算", 50, ""), Entry("大数据", 7, "n")]
    assert read_user_dictionary(str(path)) == expected


@pytest.mark.parametrize(
    ("word", "cleaning"),
    [("Ｃ语言", {}), ("雲計算", {"simplify": True}), ("①号", {"nfkc": True}), ("a<b>c", {})],
)
def test_a_word_that_cleaning_changes_is_refused_with_its_line(tmp_path, source, word, cleaning):
    path = raw.write(tmp_path / "words.txt", f"大数据\n{word} 3\n".encode())
    corpus = CorpusSettings(user_dictionary=str(path), cleaning=cleaning)
    with pytest.raises(ConfigError, match=rf"words\.txt, line 2: '{word}' is "):
        planning.check(corpus, tmp_path / "out", None)
    off = CorpusSettings(user_dictionary=str(path), cleaning={"width": False, "html": False})
    planning.check(off, tmp_path / "out", None)


@pytest.mark.parametrize("segmenter", ["rjieba", "jieba"])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("油菜花 10 n\n".encode("gbk"), "line 1: not UTF-8"),
        ("好词\n油菜花".encode("utf-16"), "line 1: not UTF-8"),
        ("abc\ndef".encode("utf-16-le"), "line 1: holds a NUL"),
        ("好词\n油菜花 99999999999999999999\n".encode(), "line 2: frequency '9+' is too large"),
        (b"a " + b"9" * 100_000, "line 1: frequency '9+…' is too large"),
        ("好词 3 n\n\n油菜花 -5 n\n".encode(), "line 3: '油菜花 -5 n' is not"),
        ("油菜花 1.5\n".encode(), "line 1: '油菜花 1.5' is not"),
        ("油菜花,10,n\n".encode(), "line 1: '油菜花,10,n' is not"),
        ("油菜花，10\n".encode(), "line 1: .* is not"),
        *(
            (f"好词\n{line}\n".encode(), f"line 2: '{line}' is not")
            for line in (
                "油菜花 1e3",
                "油菜花 5万",
                "10 油菜花",
                "油菜花 n 10",
                "油菜花/10/n",
                "花:10",
            )
        ),
        ("花".encode() * 200_000, "line 1: a word of 200,000 characters"),
        (b"\n \n", "it holds no words"),
        (b"", "it holds no words"),
    ],
)
def test_a_bad_line_is_one_error_that_names_it(tmp_path, segmenter, data, message):
    path = tmp_path / "words.txt"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=message) as raised:
        load_segmenter(segmenter, str(path))
    assert str(path) in str(raised.value)
    assert len(str(raised.value)) < 500


def test_a_folder_and_a_missing_file_are_named(tmp_path):
    with pytest.raises(ConfigError, match="Is a directory"):
        read_user_dictionary(str(tmp_path))
    with pytest.raises(ConfigError, match="no such file"):
        read_user_dictionary(str(tmp_path / "no.txt"))


def test_a_word_is_forbidden_by_jieba_and_refused_for_rjieba(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("大片 0\n", "utf-8")
    assert "大片" not in list(load_segmenter("jieba", str(path)).cut("窗外是大片油菜花。"))
    with pytest.raises(ConfigError, match="frequency 0"):
        load_segmenter("rjieba", str(path))


@pytest.mark.parametrize("segmenter", ["rjieba", "jieba"])
def test_both_segmenters_take_the_fields_alike(tmp_path, segmenter):
    path = tmp_path / "words.txt"
    path.write_text("油菜花\t10\tn\n新镇子 nz\n", "utf-8")
    words = list(load_segmenter(segmenter, str(path)).cut("新镇子里是大片油菜花。"))
    assert words[:1] == ["新镇子"]
    assert words[-2:] == ["油菜花", "。"]


def test_a_dictionary_is_read_into_words_only_when_it_has_changed(tmp_path, monkeypatch):
    path = tmp_path / "words.txt"
    path.write_text("云计算 1000\n", "utf-8")
    first = load_segmenter("rjieba", str(path))
    read: list[str] = []

    def count(path):
        read.append(path)
        return read_user_dictionary(path)

    monkeypatch.setattr(segmentation, "read_user_dictionary", count)
    assert load_segmenter("rjieba", str(path)) is first
    assert not read
    path.write_text("云计算机 1000\n", "utf-8")
    assert load_segmenter("rjieba", str(path)).identity != first.identity
    assert read


@pytest.mark.parametrize("segmenter", ["rjieba", "jieba"])
def test_words_that_the_segmenter_never_cuts_out_are_named(tmp_path, segmenter):
    words = ["云计算", "哈利·波特", "5·12地震", "新冠 病毒", "iPhone手机", "A股", "2020年"]
    path = raw.write(tmp_path / "words.txt", "\n".join(f"{word} 1000" for word in words).encode())
    corpus = CorpusSettings(segmenter=segmenter, user_dictionary=str(path))
    (warning,) = planning.unused_words(corpus)
    assert warning.startswith("5 words of corpus.user_dictionary have no effect")
    assert "'哈利·波特', '5·12地震', '新冠 病毒', 'A股', '2020年'" in warning
    path.write_text("云计算\n领先者 0\n" if segmenter == "jieba" else "云计算\n", "utf-8")
    assert planning.unused_words(corpus) == []
    assert planning.unused_words(CorpusSettings()) == []
