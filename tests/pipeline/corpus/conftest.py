import pytest

from pipeline.corpus.samples.vocabulary import SPECIALS
from tests.pipeline.corpus import raw
from tests.pipeline.corpus.raw import WORDS, write_texts


@pytest.fixture
def vocab(tmp_path):
    path = tmp_path / "vocab.txt"
    characters = sorted({character for word in WORDS for character in word})
    digits = [*"0123456789", *(f"##{digit}" for digit in "0123456789")]
    path.write_text("\n".join([*SPECIALS, *characters, *"第篇。", *digits]) + "\n", "utf-8")
    return path


@pytest.fixture
def source(tmp_path):
    return raw.write(tmp_path / "in" / "a.jsonl", raw.jsonl(write_texts(300)))
