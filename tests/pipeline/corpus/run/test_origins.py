"""The file and byte that a sample's document comes from."""

import json

import fsspec
import numpy as np
import pytest

from pipeline.corpus.run.origins import origins_of
from pipeline.corpus.shards.reader import ShardFolder, flat_pairs
from tests.pipeline.corpus import raw
from tests.pipeline.corpus.made import make_corpus
from tests.pipeline.corpus.preparing import run
from tests.pipeline.corpus.raw import write_texts


@pytest.fixture
def corpus(tmp_path, vocab):
    """Samples of a file that is cut into ranges and of a compressed one, which is a stream."""
    texts = write_texts(200)
    raw.write(tmp_path / "in" / "a.jsonl", raw.jsonl(texts[:100]))
    raw.write(tmp_path / "in" / "b.jsonl.gz", raw.jsonl(texts[100:]))
    run(tmp_path / "in", tmp_path / "out", vocab)
    reader = ShardFolder(tmp_path / "out")
    numbers = np.arange(len(reader))
    return reader, numbers, flat_pairs(reader.rows(numbers)), list(vocab.read_text().split("\n"))


def test_file_and_byte_of_a_sample_s_document_are_found(corpus, tmp_path):
    reader, numbers, pairs, tokens = corpus
    found = origins_of(reader, numbers[::7], pairs.documents[::7])
    assert set(found) == set(pairs.documents[::7].tolist())
    files = set()
    for row in numbers[::7]:
        path, _, offset = found[int(pairs.documents[row])].rpartition(":")
        files.add(path)
        with fsspec.open(path, compression="infer") as file:
            file.seek(int(offset))
            text = json.loads(file.readline())["text"]
        begin = pairs.offsets[row]
        segment = pairs.input_ids[begin + 1 : begin + pairs.segment_b_start[row] - 1]
        shown = "".join(tokens[number].removeprefix("##") for number in segment)
        assert shown in text.replace("\n", "")
    assert len(files) == 2


def test_nothing_is_found_if_the_inputs_are_gone(corpus, tmp_path):
    reader, numbers, pairs, _ = corpus
    (tmp_path / "in").rename(tmp_path / "elsewhere")
    assert origins_of(reader, numbers[:5], pairs.documents[:5]) == {}
    make_corpus(tmp_path / "made")
    made = ShardFolder(tmp_path / "made")
    assert origins_of(made, numbers[:5], made.rows(numbers[:5]).documents) == {}
