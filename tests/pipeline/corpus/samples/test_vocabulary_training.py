import subprocess
import sys
from collections import Counter
from random import Random

import pytest

from pipeline.corpus.run.inputs import list_inputs
from pipeline.corpus.samples import vocabulary_training
from pipeline.corpus.samples.vocabulary import SPECIALS, build_tokenizer, vocabulary_sha256
from pipeline.corpus.samples.vocabulary_training import compose_vocabulary, train_vocabulary
from pipeline.corpus.text.sources import list_sources
from pipeline.corpus.text.units import plan_units
from pipeline.errors import CorpusError, VocabularyError
from pipeline.settings.corpus import CorpusSettings
from tests.pipeline.corpus import raw
from tests.reported import Lines

TEXTS = [
    "我们在学习，学习使我们快乐！",
    "Python 3.11 与 PyTorch 训练，Python 学习。",
    "学习 1998 年 Café",
] * 9


@pytest.fixture
def corpus(tmp_path):
    path = raw.write(tmp_path / "a.jsonl", raw.jsonl(TEXTS))
    return CorpusSettings(inputs=(str(path),), vocab_size=128, cleaning={"min_han_share": 0})


def train(corpus, path):
    return train_vocabulary(corpus, path, list_inputs(corpus).sources, Lines())


def test_a_trained_vocabulary(corpus, tmp_path):
    vocabulary = train(corpus, tmp_path / "v" / "vocab.txt")
    tokens = list(vocabulary)
    assert tuple(tokens[:5]) == SPECIALS
    assert tokens[5] in "学习，"
    assert len(tokens) <= 128
    assert {"我", "们", "！", "python", "c", "##c"} <= set(tokens)
    assert not [t for t in tokens if len(t.removeprefix("##")) > 1 and not t.isascii()]
    tokenizer = build_tokenizer(tmp_path / "v" / "vocab.txt", True)
    for text in TEXTS:
        assert "[UNK]" not in tokenizer.encode(text).tokens


@pytest.mark.parametrize("suffix", ["", ".zst", ".gz"])
def test_a_large_corpus_is_sampled_over_its_whole_length(tmp_path, monkeypatch, suffix):
    random = Random(0)
    for number in range(8):
        texts = ["".join(random.choices("天地人你我他", k=200)) + str(number) for _ in range(300)]
        raw.write(tmp_path / "in" / f"{number}.jsonl{suffix}", raw.jsonl(texts))
    corpus = CorpusSettings(inputs=(str(tmp_path / "in"),), shard_megabytes=0.01)
    units = plan_units(list_sources(corpus.inputs, corpus), corpus)
    text = sum(file.stat().st_size for file in (tmp_path / "in").iterdir())
    expected = text * (4 if suffix else 1)
    monkeypatch.setattr(vocabulary_training, "TRAINING_BYTES", expected / 8)
    lines = Lines()
    chunks = list(vocabulary_training.sampled_chunks(units, corpus, lines, Counter()))
    files = {chunk.blocks[0].source.path for chunk in chunks}
    assert len(files) == 8
    size = sum(block.size for chunk in chunks for block in chunk.blocks)
    # A stream gives at least one chunk.
    assert size < expected / 8 + 8 * 12_000
    assert "counted" in lines[-1]


def test_other_processes_train_the_same_vocabulary(corpus, tmp_path):
    program = (
        "import sys; from pipeline.settings.config import CorpusSettings; "
        "from tests.pipeline.corpus.samples.test_vocabulary_training import train; "
        "train(CorpusSettings.model_validate_json(sys.argv[1]), sys.argv[2])"
    )
    digests = set()
    for number in range(2):
        path = tmp_path / str(number) / "vocab.txt"
        subprocess.run(
            [sys.executable, "-c", program, corpus.model_dump_json(), str(path)], check=True
        )
        digests.add(vocabulary_sha256(path))
    train(corpus, tmp_path / "vocab.txt")
    assert digests == {vocabulary_sha256(tmp_path / "vocab.txt")}


def test_it_is_trained_again_only_if_something_changed(corpus, tmp_path):
    path = tmp_path / "vocab.txt"
    train(corpus, path)
    path.touch()
    before = path.stat().st_mtime_ns
    train(corpus, path)
    assert path.stat().st_mtime_ns == before
    path.write_text(path.read_text("utf-8") + "多\n", "utf-8")
    assert "多" not in train(corpus, path)
    smaller = corpus.model_copy(update={"vocab_size": 64})
    assert len(train(smaller, path)) <= 64


def test_frequent_characters_come_first_and_the_size_is_kept():
    characters = Counter({chr(0x4E00 + number): 1000 - number for number in range(900)})
    words = Counter({"the": 500, "then": 50, "ß": 3, "123": 40})
    vocabulary = compose_vocabulary(characters, words, 200)
    assert len(vocabulary) == len(set(vocabulary)) == 200
    assert vocabulary[5:25] == [chr(0x4E00 + number) for number in range(20)]
    assert {"the", "t", "##h", "1", "##3"} <= set(vocabulary)


def test_a_vocabulary_of_somebody_else_is_not_overwritten(tmp_path):
    corpus = CorpusSettings(inputs=(str(tmp_path / "a.jsonl"),), vocab_size=64)
    raw.write(tmp_path / "a.jsonl", raw.jsonl(["我们学习中国经济发展，今天天气很好。"] * 20))
    sources = list_inputs(corpus).sources
    path = tmp_path / "vocab.txt"
    path.write_text("[PAD]\nmine\n", "utf-8")
    with pytest.raises(VocabularyError, match="was not trained here"):
        train_vocabulary(corpus, path, sources, Lines())
    assert path.read_text("utf-8") == "[PAD]\nmine\n"
    (tmp_path / "vocab.origin.json").write_text("[1]", "utf-8")
    with pytest.raises(VocabularyError, match="was not trained here"):
        train_vocabulary(corpus, path, sources, Lines())
    path.unlink()
    train_vocabulary(corpus, path, sources, Lines())
    train_vocabulary(corpus.model_copy(update={"vocab_size": 70}), path, sources, Lines())


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ('{"text": ""}\n', "no text to train a vocabulary on"),
        (
            '{"content": "正文"}\n{"text": "English only"}\n' * 3,
            r"'malformed': 3, 'not_chinese': 3.*corpus\.text_field",
        ),
        (
            '\n{"id": 1, "content": "正文"}\n',
            r"a\.jsonl:1: malformed: no field 'text'; set corpus\.text_field to one of: id, co",
        ),
    ],
)
def test_an_error_for_want_of_text_names_what_was_dropped(tmp_path, rows, told):
    path = raw.write(tmp_path / "a.jsonl", rows.encode())
    with pytest.raises(CorpusError, match=told):
        train(CorpusSettings(inputs=(str(path),)), tmp_path / "vocab.txt")
