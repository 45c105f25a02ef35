"""What is left out is said in the plan, while preparing, and in the manifest."""

from pipeline.corpus import planning, prepare
from pipeline.corpus.run.inputs import list_inputs
from pipeline.corpus.shards import format as shards
from pipeline.settings.corpus import CorpusSettings
from tests.pipeline.corpus import raw
from tests.pipeline.corpus.preparing import hashes, run
from tests.pipeline.corpus.raw import write_texts
from tests.reported import Lines


def test_what_is_left_out_is_said_everywhere(vocab, tmp_path):
    texts = write_texts(60)
    raw.write(tmp_path / "alone" / "a.jsonl", raw.jsonl(texts))
    folder = raw.write(tmp_path / "in" / "a.jsonl", raw.jsonl(texts)).parent
    for number in range(7):
        raw.write(folder / f"{number}.docx", b"PK")
    raw.write(folder / "empty.csv", b"")
    (folder / "gone.txt").symlink_to("nowhere")
    reasons = {
        "empty": [f"{folder}/empty.csv"],
        "link to nothing": [f"{folder}/gone.txt"],
        "unknown kind": [f"{folder}/{number}.docx" for number in range(7)],
    }
    corpus = CorpusSettings(inputs=(str(folder),))
    told = prepare.summary(planning.plan(corpus, vocab, 42, list_inputs(corpus)), tmp_path / "out")
    assert told["read"].startswith("1 file(s)")
    assert told["left out"].split("\n") == [
        f"1 empty: {folder}/empty.csv",
        f"1 link to nothing: {folder}/gone.txt",
        f"7 unknown kind: {', '.join(reasons['unknown kind'][:5])} …",
    ]
    for _ in range(2):  # made, and up to date
        lines = Lines()
        manifest = run(folder, tmp_path / "out", vocab, progress=lines)
        assert {f"left out: {line}" for line in told["left out"].split("\n")} <= set(lines)
    assert manifest.left_out == shards.read_manifest(tmp_path / "out").left_out == reasons
    assert manifest.drops == {"empty_file": 1}
    run(tmp_path / "alone", tmp_path / "same", vocab)
    assert hashes(tmp_path / "out") == hashes(tmp_path / "same")
