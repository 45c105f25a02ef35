import pytest

from pipeline.corpus.text.encodings import find_codec

NEWS = "一九九八年新年讲话。中国与世界各国人民的友谊，在新的一年里将继续发展！"
OLD = "昔者莊周夢為胡蝶，栩栩然胡蝶也，自喻適志與！不知周也。俄然覺，則蘧蘧然周也。"


@pytest.mark.parametrize("text", [NEWS, "ASCII first, then " + NEWS])
@pytest.mark.parametrize("codec", ["utf-8", "gb18030", "utf-16-le", "utf-16-be"])
def test_modern_text_without_a_mark(text, codec):
    assert find_codec((text * 20).encode(codec)) == codec


@pytest.mark.parametrize("codec", ["utf-8", "gb18030", "utf-16-le"])
def test_traditional_text(codec):
    assert find_codec((OLD * 20).encode(codec)) == codec


@pytest.mark.parametrize(
    ("codec", "found"), [("utf-8-sig", "utf-8"), ("utf-16", "utf-16-le"), ("gbk", "gb18030")]
)
def test_marks_and_aliases(codec, found):
    assert find_codec(NEWS.encode(codec)) == found


def test_a_sample_that_ends_within_a_character_and_one_damaged_byte():
    data = (NEWS * 50).encode()
    assert find_codec(data[:1000]) == "utf-8"
    assert find_codec(data[:500] + b"\xff" + data[501:2000]) == "utf-8"


@pytest.mark.parametrize("data", [b"", b"plain ascii", bytes(range(256)) * 100])
def test_bytes_that_fit_no_codec_are_called_utf8(data):
    assert find_codec(data) == "utf-8"
