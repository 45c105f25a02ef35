from jobs import prepare, vocab
from jobs.command import main
from tests.pipeline.corpus import raw

TEXTS = ["我们在学习，学习使我们快乐！今天天气很好。"] * 20


def test_vocab_trains_then_checks(tmp_path, capsys):
    source = raw.write(tmp_path / "a.jsonl", raw.jsonl(TEXTS))
    run = [f"run.storage={tmp_path}", "run.name=v", f"corpus.inputs=[{source}]"]
    size = "corpus.vocab_size=64"
    assert main(vocab.VERB, [*run, size, "--dry-run"]) == 0
    assert not (tmp_path / "v").exists()
    assert main(vocab.VERB, [*run, size]) == 0
    path = tmp_path / "v" / "vocab.txt"
    assert "学" in path.read_text("utf-8").split("\n")
    assert main(vocab.VERB, [*run, f"corpus.vocab={path}"]) == 0
    path.write_text("的\n", "utf-8")
    assert main(vocab.VERB, [*run, f"corpus.vocab={path}"]) == 2
    assert "[PAD]" in capsys.readouterr().err


def test_a_dry_run_of_prepare_reads_and_writes_nothing(tmp_path, capsys):
    source = raw.write(tmp_path / "a.jsonl", raw.jsonl(TEXTS))
    run = [f"run.storage={tmp_path}", "run.name=p", f"corpus.inputs=[{source}]"]
    assert main(prepare.VERB, [*run, "--dry-run"]) == 0
    assert main(vocab.VERB, [*run, "corpus.vocab_size=64"]) == 0
    assert main(prepare.VERB, [*run, "corpus.vocab_size=64", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "train a vocabulary" in told
    assert "1 file(s)" in told
    assert "rjieba" in told
    assert not (tmp_path / "p" / "shards").exists()
    # Of another size, the vocabulary would be trained again.
    heldout = raw.write(tmp_path / "h.jsonl", raw.jsonl(TEXTS[:1]))
    again = [*run, "corpus.vocab_size=80", f"corpus.heldout=[{heldout}]"]
    assert main(prepare.VERB, [*again, "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "train a vocabulary of 80" in told
    assert "hold out" in told


def test_prepare_names_a_missing_input(tmp_path, capsys):
    assert main(prepare.VERB, [f"run.storage={tmp_path}", "corpus.inputs=[no.jsonl]"]) == 2
    assert "no.jsonl: no such file" in capsys.readouterr().err
