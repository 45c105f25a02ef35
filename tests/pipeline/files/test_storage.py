"""Object stores, through a real server."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from pipeline.corpus.run.passes import Executor
from pipeline.corpus.shards import verify
from pipeline.errors import StorageError
from pipeline.files import storage
from tests.pipeline.corpus import raw
from tests.pipeline.corpus.conftest import vocab  # noqa: F401
from tests.pipeline.corpus.preparing import IN_PROCESS, hashes, run
from tests.pipeline.corpus.raw import write_texts
from tests.pipeline.object_store import bucket, object_store  # noqa: F401


@pytest.fixture
def without_s3fs(monkeypatch):
    """pyarrow speaks S3, also where s3fs is installed."""
    monkeypatch.setattr(storage, "_missing_package", lambda scheme: "s3fs")


@pytest.mark.parametrize("client", ["s3fs", "pyarrow"])
def test_a_corpus_goes_from_s3_to_s3(bucket, client, vocab, tmp_path, monkeypatch):  # noqa: F811
    if client == "s3fs":
        pytest.importorskip("s3fs", reason="pip install s3fs; without it pyarrow speaks S3")
    else:

        def missing(path):
            raise ImportError("s3fs")

        monkeypatch.setattr(storage, "url_to_fs", missing)
    texts = write_texts(60)
    system, inner = storage.filesystem(f"{bucket}/in/a.jsonl")
    system.pipe_file(inner, raw.jsonl(texts))
    settings = {"dedup": {"exact_documents": True}, "shard_megabytes": 0.005}
    manifest = run(f"{bucket}/in", f"{bucket}/out", vocab, **settings)
    assert len(manifest.shards) > 1
    assert verify.verify(f"{bucket}/out").problems == []
    nothing = Executor(lambda *_: pytest.fail("was finished"), IN_PROCESS.run_tasks)
    assert run(f"{bucket}/in", f"{bucket}/out", vocab, nothing, **settings) == manifest
    monkeypatch.undo()
    raw.write(tmp_path / "in" / "a.jsonl", raw.jsonl(texts))
    run(tmp_path / "in", tmp_path / "out", vocab, **settings)
    assert {shard.name: shard.sha256 for shard in manifest.shards} == hashes(tmp_path / "out")


KEYS = ("语料/第 1 部.txt", "a%20b.txt", "a#b.txt", "a+b&c=d.txt", "what?.txt", "[1]{2}|^.txt")


def test_the_characters_of_a_key_stand_for_themselves(bucket):  # noqa: F811
    for number, key in enumerate(KEYS):
        storage.write_whole(f"{bucket}/keys/{key}", bytes([number]))
    system, inner = storage.filesystem(bucket.replace("s3:", "S3A:") + "/keys")
    urls = [storage.url_of(system, path, bucket) for path in system.find(inner)]
    assert urls == sorted(f"{bucket}/keys/{key}" for key in KEYS)
    for number, key in enumerate(KEYS):
        assert storage.read_whole(f"{bucket}/keys/{key}") == bytes([number])


@pytest.mark.usefixtures("without_s3fs")
def test_options_of_a_url_reach_the_files_in_it(bucket, monkeypatch):  # noqa: F811
    storage.write_whole(f"{bucket}/in/a.txt", b"x")
    endpoint = storage.os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    asked = f"{bucket}/in?scheme=http&endpoint_override={endpoint}"
    assert storage.read_whole(f"{asked}/a.txt") == b"x"
    system, inner = storage.filesystem(asked)
    (found,) = (storage.url_of(system, path, asked) for path in system.find(inner))
    assert storage.without_options(found) == f"{bucket}/in/a.txt"
    assert storage.read_whole(found) == b"x"


@pytest.mark.usefixtures("without_s3fs")
def test_a_bucket_is_asked_for_once(bucket, monkeypatch):  # noqa: F811
    """It was for each file, at 25 ms and more: a thousand files were listed in a minute."""
    storage.filesystem(f"{bucket}/a")
    monkeypatch.setattr(storage.pyarrow.fs, "FileSystem", None)
    system, inner = storage.filesystem(f"{bucket}/b/c.txt")
    assert inner == f"{bucket.removeprefix('s3://')}/b/c.txt"
    assert system is storage.filesystem(f"{bucket}/")[0]


@pytest.mark.usefixtures("without_s3fs")
def test_a_folder_that_cannot_be_listed_is_no_empty_one(bucket, monkeypatch):  # noqa: F811
    """fsspec leaves it out: a corpus lacked files, and a run in a store began anew."""
    for name in ("a/x", "b/c/x"):
        storage.write_whole(f"{bucket}/listed/{name}", b"x")
    system, inner = storage.filesystem(f"{bucket}/listed")
    assert len(system.find(inner)) == 2
    assert system.find(f"{inner}/missing") == []
    ls = system.ls

    def fail(path, **given):
        if path.endswith("/c"):
            raise OSError("SLOW_DOWN")
        return ls(path, **given)

    monkeypatch.setattr(system, "ls", fail)
    for search in (system.find, lambda root: system.glob(f"{root}/**")):
        with pytest.raises(OSError, match="SLOW_DOWN"):
            search(inner)


KEYS_OF_GOOGLE = ("in/c.txt", "in/made/", "in/2023/a.txt", "in/2024/x/b.txt", "inside.txt")


class _GoogleServer(BaseHTTPRequestHandler):
    """Lists keys, and tells of one, as Google's store does."""

    def do_GET(self):
        url = urlsplit(self.path)
        _, _, key = url.path.partition("/o/")
        asked = {name: values[0] for name, values in parse_qs(url.query).items()}
        begin = asked.get("prefix", "")
        keys = [each for each in KEYS_OF_GOOGLE if each.startswith(begin)]
        if "delimiter" in asked:
            keys = [each for each in keys if "/" not in each.removeprefix(begin)]
        if key:
            keys = [each for each in keys if each == unquote(key)]
        items = [{"bucket": "b", "name": each, "size": "1"} for each in keys]
        answer = json.dumps(items[0] if key and items else {"items": items}).encode()
        self.send_response(404 if key and not items else 200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *given):
        """Nothing."""


@pytest.fixture
def google(monkeypatch):
    """The URL of a bucket, and the options that lead to its server."""
    monkeypatch.setattr(storage, "_missing_package", lambda scheme: "gcsfs")
    with ThreadingHTTPServer(("127.0.0.1", 0), _GoogleServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        options = f"?scheme=http&endpoint_override=127.0.0.1:{server.server_port}"
        yield f"gs://anonymous@b{options}"
        server.shutdown()


def test_folders_of_google_are_found(google):
    """pyarrow lists none that others made: text, and checkpoints of a run, were not seen."""
    system, inner = storage.filesystem(f"{google}/in")
    names = ["in/2023/a.txt", "in/2024/x/b.txt", "in/c.txt"]
    assert system.find(inner) == [f"b/{name}" for name in names]
    assert system.glob("b/in/*/*.txt") == ["b/in/2023/a.txt"]
    assert sorted(system.ls(f"{inner}/", detail=False)) == [
        f"b/in/{name}" for name in ("2023", "2024", "c.txt", "made")
    ]
    assert system.ls("b/in/c.txt", detail=False) == ["b/in/c.txt"]
    assert system.find("b/new") == []
    with pytest.raises(FileNotFoundError):
        system.ls("b/new")


def test_the_url_of_a_file_names_the_user_of_its_bucket(google):
    """A file of a public bucket was read with credentials, of which there may be none."""
    system, inner = storage.filesystem(f"{google}/in/c.txt")
    found = storage.url_of(system, inner, f"{google}/in/")
    assert storage.without_options(found) == "gcs://anonymous@b/in/c.txt"
    assert storage.filesystem(found)[0].exists(inner)


@pytest.mark.parametrize("asked", ["hdfs://far:8020/in/", "hdfs://far:8020/i*", "hdfs://far:8020"])
def test_the_url_of_a_file_names_its_host(monkeypatch, asked):
    """It was left out, and another host was asked for the file."""
    inner = asked.removeprefix("hdfs://far:8020").rstrip("/") or "/"
    system = SimpleNamespace(unstrip_protocol="hdfs://{}".format)
    monkeypatch.setattr(storage, "filesystem", lambda path: (system, inner))
    assert storage.url_of(system, "/in/a.txt", asked) == "hdfs://far:8020/in/a.txt"


def test_threads_that_write_one_file_do_not_disturb_each_other(tmp_path):
    def write(text):
        for _ in range(50):
            storage.write_whole(str(tmp_path / "file"), text)

    with ThreadPoolExecutor(4) as executor:
        list(executor.map(write, [b"a" * 10, b"b" * 10, b"c" * 10, b"d" * 10]))
    assert (tmp_path / "file").read_bytes() in {letter * 10 for letter in (b"a", b"b", b"c", b"d")}
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.usefixtures("without_s3fs")
def test_two_slashes_in_a_url_are_refused(bucket):  # noqa: F811
    """As of `$PREFIX/` and `/out`: pyarrow takes no such path."""
    with pytest.raises(StorageError, match=r"`//` in a path is not read; take out a slash"):
        storage.filesystem(f"{bucket}//out")


@pytest.mark.usefixtures("without_s3fs")
def test_s3_is_asked_again_while_it_limits_requests(monkeypatch):
    """For 25 s: pyarrow's 6 s were too short for a preparation with many workers.

    A store behind a certificate of one's own was not reached where AWS_CA_BUNDLE names it.
    """
    given = {}

    def take(**options):
        given.update(options)
        return storage.pyarrow.fs.LocalFileSystem()

    monkeypatch.setattr(storage.pyarrow.fs, "S3FileSystem", take)
    monkeypatch.setattr(storage, "_store", storage._store.__wrapped__)
    monkeypatch.setenv("AWS_CA_BUNDLE", "/etc/ours.pem")
    storage.filesystem("s3://bucket/x?region=eu-west-1&tls_ca_file_path=%2Fetc%2Ftheirs.pem")
    assert given["tls_ca_file_path"] == "/etc/theirs.pem"
    storage.filesystem("s3://bucket/x?region=eu-west-1")
    assert given["tls_ca_file_path"] == "/etc/ours.pem"
    assert given["region"] == "eu-west-1"
    assert given["retry_strategy"].max_attempts == storage.S3_ATTEMPTS


@pytest.mark.parametrize(
    "error", [OSError("no libjvm\nin a\nin b"), RuntimeError("no token"), ConnectionError]
)
def test_a_store_that_cannot_be_reached_is_an_error_that_names_it(monkeypatch, error):
    def refuse(path):
        raise error

    monkeypatch.setattr(storage, "url_to_fs", refuse)
    with pytest.raises(
        StorageError, match=r"hdfs://far/a\.txt: the store can't be reached: [^\n]+$"
    ):
        storage.filesystem("hdfs://far/a.txt")


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("gs://b/x.txt", "gs://b/?retry_limit_seconds=10"),
        ("gs://b/x.txt?project_id=p", "gs://b/?project_id=p&retry_limit_seconds=10"),
        ("gs://b/x.txt?retry_limit_seconds=300", "gs://b/?retry_limit_seconds=300"),
        ("hdfs://host/x.txt", "hdfs://host/"),
    ],
)
def test_google_is_not_tried_for_a_quarter_of_an_hour(monkeypatch, url, asked):
    urls = []

    def from_uri(given):
        urls.append(given)
        raise OSError("no network here")

    monkeypatch.setattr(storage, "_missing_package", lambda scheme: "gcsfs is not installed")
    monkeypatch.setattr(storage.pyarrow.fs, "FileSystem", SimpleNamespace(from_uri=from_uri))
    with pytest.raises(StorageError, match="gcsfs is not installed; pyarrow: no network here"):
        storage.filesystem(url)
    assert urls == [asked]


@pytest.mark.parametrize("text", [None, "", "{", "null", "[1]", '"a"', '{"done": true}'])
def test_a_note_that_is_damaged_says_nothing(tmp_path, text):
    """A damaged `export.json` or `plan.json` ended commands with a traceback."""
    if text is not None:
        (tmp_path / "note.json").write_text(text)
    whole = text is not None and "done" in text
    assert storage.read_note(tmp_path / "note.json") == ({"done": True} if whole else {})


def test_nothing_is_found_below_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    system, _ = storage.filesystem(f"local://{tmp_path}")
    assert system.find(f"{tmp_path}/file/below") == []
