"""The network that the settings describe."""

from pathlib import Path

from pipeline.corpus.samples.vocabulary import read_vocabulary
from pipeline.paths import RunPaths
from pipeline.settings.reading.config_file import load_config
from pipeline.training.start.network import vocabulary_size
from tests.corpora import write_corpus, write_vocabulary


def test_the_size_of_the_vocabulary_is_that_of_what_is_there(tmp_path):
    run = [f"run.storage={tmp_path}", "run.name=sized", "corpus.vocab_size=300"]
    config = load_config(None, run)
    assert vocabulary_size(config) == 300
    vocab = write_vocabulary(tmp_path / "given.txt")
    entries = len(read_vocabulary(vocab))
    assert vocabulary_size(load_config(None, [*run, f"corpus.vocab={vocab}"])) == entries
    absent = load_config(None, [*run, "corpus.vocab=data/elsewhere.txt"])
    assert vocabulary_size(absent) == 300
    made = write_corpus(tmp_path / "shards", vocab)
    assert vocabulary_size(load_config(None, [*run, f"train.shards=['{made}@1']"])) == entries
    RunPaths.of(config).run.mkdir()
    write_vocabulary(Path(RunPaths.of(config).vocab))
    assert vocabulary_size(config) == entries
