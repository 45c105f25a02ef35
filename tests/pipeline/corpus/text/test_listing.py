"""What is read of folders with links, special files, files without permission and odd names."""

import os
import socket
import tempfile
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.corpus.text.listing import find_files
from pipeline.corpus.text.sources import list_sources
from pipeline.errors import CorpusError
from pipeline.files.storage import filesystem
from pipeline.settings.corpus import CorpusSettings
from tests.pipeline.corpus import raw


def listed(*inputs, base: Path, **settings):
    """Names of the files that are read, and what is left out by reason, relative to `base`."""
    listing = list_sources(list(map(str, inputs)), CorpusSettings(**settings))
    left_out = {
        reason: [path.removeprefix(f"{base}/") for path in paths]
        for reason, paths in listing.left_out_by_reason().items()
    }
    return [source.name.removeprefix("0/") for source in listing], left_out


@pytest.fixture
def folder(tmp_path):
    for name in ("in/real.txt", "in/sub/b.txt", "store/blob", "storedir/deep/more.txt"):
        raw.write(tmp_path / name, b"x")
    return tmp_path / "in"


def link(path: Path, target: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def test_links_to_files_and_folders_are_followed(folder):
    link(folder / "linked.txt", "../store/blob")
    link(folder / "linkeddir", "../storedir")
    expected = ["linked.txt", "linkeddir/deep/more.txt", "real.txt", "sub/b.txt"]
    assert listed(folder, base=folder) == (expected, {})
    assert listed(folder / "*.txt", base=folder) == (["linked.txt", "real.txt"], {})
    assert listed(folder / "**" / "*.txt", base=folder) == (expected, {})
    assert listed(folder / "linked.txt", base=folder) == (["linked.txt"], {})


@pytest.mark.parametrize("scheme", ["", "file://", "memory://"])
def test_hidden_folders_are_said_or_entered_where_the_glob_names_them(tmp_path, scheme):
    base = f"/hidden{tmp_path}" if scheme == "memory://" else str(tmp_path)
    for name in ("a/x.txt", "a/_y.txt", "_b/x.txt", ".c/x.txt", "d/_e/x.txt", ".f"):
        if scheme == "memory://":
            filesystem(f"memory://{base}/{name}")[0].pipe_file(f"{base}/{name}", b"x")
        else:
            raw.write(tmp_path / name, b"x")

    def left_out(glob):
        listing = list_sources([f"{scheme}{base}/{glob}"], CorpusSettings())
        names = [source.path.partition(f"{base}/")[2] for source in listing]
        hidden = listing.left_out_by_reason().get("hidden", [])
        return names, [path.partition(f"{base}/")[2].removesuffix("/x.txt") for path in hidden]

    assert left_out("*/x.txt") == (["a/x.txt"], [".c", "_b"])
    assert left_out("**/x.txt") == (["a/x.txt"], [".c", "_b", "d/_e"])
    assert left_out("_*/*.txt") == (["_b/x.txt"], [])
    assert left_out("*/_y.txt") == (["a/_y.txt"], [] if scheme == "memory://" else [".c", "_b"])
    assert left_out("[a-d]/_e/*.txt") == (["d/_e/x.txt"], [])


def test_links_that_lead_nowhere_or_in_a_circle_are_said(folder):
    link(folder / "self.txt", "self.txt")
    link(folder / "up", "..")
    link(folder / "sub" / "around", "../sub")
    link(folder / "dangling.txt", "../gone")
    link(folder / "out", "../storedir")
    link(folder.parent / "storedir" / "back", "../in")
    names, left_out = listed(folder, base=folder)
    assert names == ["out/deep/more.txt", "real.txt", "sub/b.txt"]
    assert left_out == {
        "link loop": ["self.txt", "sub/around", "up"],
        "link to nothing": ["dangling.txt"],
        "link to what is read under another name": ["out/back"],
    }


def found(text):
    return find_files(text, "corpus.inputs", lambda path: True)


def test_a_link_repeats_no_text(folder):
    link(folder / "a.txt", "real.txt")
    link(folder / "again", "sub")
    link(folder / "once.txt", "../store/blob")
    link(folder / "twice.txt", "../store/blob")
    names, left_out = listed(folder, base=folder)
    assert names == ["once.txt", "real.txt", "sub/b.txt"]
    reason = "link to what is read under another name"
    assert left_out == {reason: ["a.txt", "again", "twice.txt"]}


def test_every_file_that_is_not_read_has_a_reason(folder):
    for name in ("d.docx", "e.txt.zip", "part-00000"):
        raw.write(folder / name, b"PK")
    raw.write(folder / "empty.txt", b"")
    raw.write(folder / ".git" / "config.txt", b"x")
    raw.write(folder / "_SUCCESS", b"")
    os.mkfifo(folder / "pipe.txt")
    with socket.socket(socket.AF_UNIX) as server, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # the path of a socket must be short
        server.bind("socket.txt")
        names, left_out = listed(folder, base=folder)
    assert names == ["real.txt", "sub/b.txt"]
    assert left_out == {
        "empty": ["empty.txt"],
        "hidden": [".git", "_SUCCESS"],
        "not a regular file": ["pipe.txt", "socket.txt"],
        "unknown kind": ["d.docx", "e.txt.zip", "part-00000"],
    }
    _, left_out = listed(folder / "*", base=folder)
    assert left_out["folder that the glob does not or cannot enter"] == ["sub"]


def test_the_error_for_a_folder_without_text_says_what_is_there(tmp_path):
    raw.write(tmp_path / "a.docx", b"x")
    os.mkfifo(tmp_path / "p.txt")
    with pytest.raises(CorpusError, match=r"(?s)no file of a known kind.*p\.txt.*a\.docx"):
        list_sources([str(tmp_path)], CorpusSettings())


def test_a_link_is_followed_to_a_file_that_is_not_read_under_its_own_name(tmp_path):
    """The cache of Hugging Face keeps files as blobs/HASH, and links to them with their names."""
    root = tmp_path / "datasets--me--texts"
    raw.write(root / "blobs" / "0a1b", raw.jsonl(["一行文字"]))
    (root / "snapshots" / "1").mkdir(parents=True)
    link(root / "snapshots" / "1" / "train.jsonl", "../../blobs/0a1b")
    (root / "refs").mkdir()
    link(root / "refs" / "main", "../snapshots/1")
    names, left_out = listed(root, base=root)
    assert names == ["snapshots/1/train.jsonl"]
    assert left_out == {
        "link to what is read under another name": ["refs/main"],
        "unknown kind": ["blobs/0a1b"],
    }
    assert listed(root / "**" / "*.jsonl", base=root)[0] == names


def test_a_link_is_followed_to_a_folder_whose_own_name_the_glob_does_not_match(tmp_path):
    raw.write(tmp_path / "2024-01" / "a.txt", b"x")
    raw.write(tmp_path / "newest" / "b.txt", b"x")
    link(tmp_path / "2024-02", "newest")
    names, left_out = listed(tmp_path / "2024*" / "*.txt", base=tmp_path)
    assert names == ["2024-01/a.txt", "2024-02/b.txt"]
    assert left_out == {}


NAMES = ["第一 批[新].txt", "a*b.txt", "c?.txt", "[x].txt", "d::e.txt", "f#g%20.txt", "{h}.txt"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_exists_is_no_glob(tmp_path, name):
    raw.write(tmp_path / name, "一行文字".encode())
    raw.write(tmp_path / "x" / "a-b.txt", b"other")
    assert raw.texts(tmp_path / name) == ["一行文字"]
    assert raw.texts(tmp_path / name, shard_megabytes=5e-6) == ["一行文字"]
    folder = tmp_path / name.removesuffix(".txt")
    raw.write(folder / "a.txt", "在文件夹里".encode())
    assert raw.texts(folder) == ["在文件夹里"]
    if name != "a*b.txt":  # as a pattern, which nothing of this name hides, brackets are a glob
        assert listed(tmp_path / "x" / "[ab]-?.txt", base=tmp_path)[0] == ["a-b.txt"]


def test_a_name_that_is_not_utf8_is_read_and_can_be_printed(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xd0\xc2\xce\xc5.jsonl"
    Path(os.fsdecode(path)).write_bytes(raw.jsonl(["新闻"]) + b"{\n")
    (document,), (drop,) = raw.read(tmp_path)
    assert document.text == "新闻"
    assert document.place.endswith(r"\xd0\xc2\xce\xc5.jsonl:0")
    assert (document.place + drop.place).encode()


@pytest.fixture
def without_permission():
    """A folder with a file, and with a folder, that this process has no permission to read."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        for path in ("file/open.txt", "file/secret.txt", "data/open.txt", "data/locked/secret.txt"):
            raw.write(folder / path, b"x")
        (folder / "file/secret.txt").chmod(0)
        (folder / "data/locked").chmod(0)
        before = os.geteuid()
        if before == 0:  # root may read everything
            os.seteuid(65534)
        try:
            yield folder
        finally:
            os.seteuid(before)
            (folder / "data/locked").chmod(0o700)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file", "no permission to read.*file/secret.txt"),
        ("file/secret.txt", "no permission to read.*file/secret.txt"),
        ("file/*.txt", "no permission to read.*file/secret.txt"),
        ("data", "no permission to read.*data/locked"),
        ("data/**/*.txt", "no permission to read.*data/locked"),
        ("data/locked/secret.txt", "data/locked/secret.txt: Permission denied"),
    ],
)
def test_what_cannot_be_read_is_an_error_that_names_it(without_permission, text, message):
    with pytest.raises(CorpusError, match=message):
        list_sources([f"{without_permission}/{text}"], CorpusSettings())


def test_a_glob_can_leave_out_what_cannot_be_read(without_permission):
    assert listed(f"{without_permission}/data/*.txt", base=without_permission) == (["open.txt"], {})
    inputs = (f"{without_permission}/data/open.txt", f"{without_permission}/*/open.txt")
    names, left_out = listed(*inputs, base=without_permission)
    assert names == ["open.txt", "1/data/open.txt", "1/file/open.txt"]
    assert left_out == {}


def test_brackets_of_a_folder_that_exists_are_no_pattern(tmp_path):
    folder = tmp_path / "批[新]*"
    raw.write(folder / "a.jsonl", b"{}\n")
    raw.write(folder / "deep" / "b.jsonl", b"{}\n")
    assert list(found(str(folder / "*.jsonl")).files) == [str(folder / "a.jsonl")]
    assert list(found(str(folder / "d[e]*" / "?.jsonl")).files) == [
        str(folder / "deep" / "b.jsonl")
    ]
    assert len(found(str(folder / "**" / "*.jsonl")).files) == 2


def test_a_glob_that_matches_nothing_says_so(tmp_path):
    settings = CorpusSettings(inputs=(str(tmp_path / "*.jsonl"),))
    with pytest.raises(CorpusError, match=r"\*\.jsonl: no file matches$"):
        list_sources(settings.inputs, settings)
    with pytest.raises(CorpusError, match="no such file, folder or glob"):
        found(str(tmp_path / "none" / "*.jsonl"))


@pytest.mark.parametrize("error", [OSError("no route"), RuntimeError("no credentials")])
def test_a_store_that_cannot_be_listed_is_an_error_that_names_the_input(monkeypatch, error):
    def refuse(*arguments, **settings):
        raise error

    monkeypatch.setattr(type(filesystem("memory://x")[0]), "isdir", refuse)
    with pytest.raises(CorpusError, match=r"corpus\.inputs: memory://x/a.*: .*no (route|cred)"):
        found("memory://x/a.txt")
    monkeypatch.setattr("pipeline.files.storage.url_to_fs", refuse)
    with pytest.raises(CorpusError, match=r"corpus\.inputs: ftp://x/a.*: .*no (route|cred)"):
        found("ftp://x/a.txt")


def test_the_fault_of_a_named_file_is_the_headline(tmp_path):
    os.mkfifo(tmp_path / "p.txt")
    with pytest.raises(CorpusError, match=r"p\.txt: not a regular file$"):
        list_sources([str(tmp_path / "p.txt")], CorpusSettings())
    raw.write(tmp_path / "a.parquet.gz", b"PAR1")
    with pytest.raises(CorpusError, match=r"a\.parquet\.gz: Parquet or Arrow file that was"):
        list_sources([str(tmp_path / "a.parquet.gz")], CorpusSettings())


def test_parquet_that_was_compressed_once_more_is_said(folder):
    raw.write(folder / "a.parquet.zst", b"PAR1")
    names, left_out = listed(folder, base=folder)
    assert names == ["real.txt", "sub/b.txt"]
    (reason,) = left_out
    assert left_out[reason] == ["a.parquet.zst"]
    assert "unpack it" in reason


def test_what_describes_a_data_set_is_no_text(tmp_path):
    """As Hugging Face's `save_to_disk` leaves it; a file that is named is read."""
    texts = pa.table({"text": ["一"]})
    with pa.ipc.new_stream(tmp_path / "data-00000-of-00001.arrow", texts.schema) as writer:
        writer.write_table(texts)
    for name in ("dataset_info.json", "state.json"):
        raw.write(tmp_path / name, b'{"text": "1"}')
    listing = list_sources([str(tmp_path)], CorpusSettings())
    assert [source.format for source in listing] == ["arrow"]
    assert listing.left_out_by_reason() == {
        "description of a data set": [f"{tmp_path}/dataset_info.json", f"{tmp_path}/state.json"]
    }
    named = list_sources([str(tmp_path / "state.json")], CorpusSettings())
    assert [source.format for source in named] == ["jsonl"]


def test_keys_with_two_slashes_are_left_out_by_name(tmp_path, monkeypatch):
    """pyarrow lists such a folder in itself, and reads nothing in it; no word was said of it."""
    system, inner = filesystem(f"memory://{tmp_path}/in")
    system.pipe_file(f"{inner}/a.txt", b"x")
    find = system.find

    def found(path, **given):
        return {path: {"name": path, "type": "directory", "size": 0}, **find(path, **given)}

    monkeypatch.setattr(system, "find", found)
    listing = list_sources([f"memory://{tmp_path}/in"], CorpusSettings())
    assert [source.name for source in listing] == ["0/a.txt"]
    (line,) = listing.left_out_lines()
    assert line.endswith(f"which pyarrow does not read: memory://{tmp_path}/in//")
