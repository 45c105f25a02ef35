"""A run in an object store: nothing that is complete there is lost with a node."""

import json
import os
import threading
import time

import pytest

from pipeline.errors import ConfigError, Interrupted, StorageError, TrackingError
from pipeline.files import holders, store, store_lock
from pipeline.files.storage import filesystem
from pipeline.paths import RunPaths
from pipeline.runs import run_in_store
from pipeline.runs.store_copy import StoreCopy
from pipeline.settings.reading.config_file import load_config
from pipeline.stages.before import preflight


@pytest.fixture
def url(tmp_path):
    """A store in this process's memory, of the same interface."""
    return f"memory://{tmp_path.name}/runs/a"


def write(folder, name, text="x"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def stored(url):
    system, inner = filesystem(url)
    return sorted(path.removeprefix(f"{inner}/") for path in system.find(inner))


def names(folder):
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


CHECKPOINT = ("checkpoints/checkpoint_000002/a", "checkpoints/checkpoint_000002/COMPLETE")


def test_another_node_gets_what_was_pushed(tmp_path, url):
    one, other = (StoreCopy(tmp_path / name, url) for name in ("one", "other"))
    one.pull()
    local = ("STOP", "lock.json", "ray/state", ".checkpoint_000003.tmp/a", "b.tmp")
    for name in (*CHECKPOINT, "metrics.jsonl", *local):
        write(one.folder, name)
    one.push()
    write(other.folder, "metrics.jsonl", "of an attempt before the last one")
    other.pull()
    assert names(other.folder) == sorted([".mirror.json", *CHECKPOINT, "metrics.jsonl"])
    assert (other.folder / "metrics.jsonl").read_text() == "x"
    (other.folder / CHECKPOINT[1]).unlink()
    (other.folder / CHECKPOINT[0]).unlink()
    write(other.folder, "metrics.jsonl", "longer")
    other.push()
    assert stored(url) == ["holder", "metrics.jsonl"]
    one.pull()  # its own copy is old now
    assert names(one.folder / "checkpoints") == [] != names(one.folder)
    assert (one.folder / "metrics.jsonl").read_text() == "longer"


def test_a_node_that_was_killed_keeps_what_it_had_not_sent(tmp_path, url):
    StoreCopy(tmp_path / "one", url).pull()
    write(tmp_path / "one", "metrics.jsonl", "newer")
    again = StoreCopy(tmp_path / "one", url)
    again.pull()
    again.push()
    assert filesystem(url)[0].cat(f"{filesystem(url)[1]}/metrics.jsonl") == b"newer"


def test_a_failed_start_on_that_node_does_not_make_its_files_old(tmp_path, url, monkeypatch):
    """The store fails after the index was written, so the start is repeated."""
    StoreCopy(tmp_path / "one", url).pull()
    write(tmp_path / "one", "metrics.jsonl", "newer")
    again = StoreCopy(tmp_path / "one", url)
    take, answers = again.write, iter([False, True])

    def fail_once(*given):
        if not next(answers):
            raise OSError("no answer")
        take(*given)

    monkeypatch.setattr(again, "write", fail_once)
    with pytest.raises(OSError, match="no answer"):
        again.pull()
    again.pull()
    again.push()
    assert (tmp_path / "one" / "metrics.jsonl").read_text() == "newer"
    assert "metrics.jsonl" in stored(url)


def test_logs_that_nodes_wrote_into_the_store_stay_there(tmp_path, url):
    StoreCopy(tmp_path / "one", url).pull()
    system, inner = filesystem(url)
    system.pipe(f"{inner}/logs/20261126-010203/node/worker.out", b"x")
    again = StoreCopy(tmp_path / "one", url)
    again.pull()
    write(again.folder, "metrics.jsonl")
    again.push()
    assert stored(url) == ["holder", "logs/20261126-010203/node/worker.out", "metrics.jsonl"]
    other = StoreCopy(tmp_path / "other", url)
    other.pull()
    assert names(other.folder) == [".mirror.json", "metrics.jsonl"]


def test_a_marker_is_there_only_with_all_its_files(tmp_path, url, monkeypatch):
    """At every moment of an upload, a replacement and a deletion."""
    one, seen = StoreCopy(tmp_path / "one", url), []
    one.pull()

    def seen_after(do):
        return lambda *given: (do(*given), seen.append(stored(url)))

    for action in ("_upload", "_delete"):
        monkeypatch.setattr(one, action, seen_after(getattr(one, action)))
    contents = {}
    for text in ("first", "second"):
        for name in CHECKPOINT:
            write(one.folder, name, text)
            os.utime(one.folder / name, ns=(1, len(text)))
        one.push()
        contents[text] = stored(url)
    for name in CHECKPOINT:
        (one.folder / name).unlink()
    one.push()
    assert len(seen) == 7  # two and two uploads, the marker once between them, two deletions
    for names in seen:
        assert CHECKPOINT[1] not in names or CHECKPOINT[0] in names
    marked = [CHECKPOINT[1] in names for names in seen]
    assert marked == [False, True, False, False, True, False, False]


def test_what_an_interrupted_upload_left_is_not_restored_but_removed(tmp_path, url):
    one, other = (StoreCopy(tmp_path / name, url) for name in ("one", "other"))
    one.pull()
    one.write(CHECKPOINT[0], b"x")
    other.pull()
    assert names(other.folder) == [".mirror.json"]
    other.push()
    assert stored(url) == ["holder"]


def test_what_was_deleted_already_does_not_stop_the_uploads(tmp_path, url):
    """As after a deletion that reached the store, but whose answer was lost."""
    one = StoreCopy(tmp_path / "one", url)
    one.pull()
    write(one.folder, "old")
    one.push()
    one.delete("old")
    (one.folder / "old").unlink()
    write(one.folder, "new")
    one.push()
    assert stored(url) == ["holder", "new"]


def test_a_store_that_deletes_nothing_gets_what_is_new(tmp_path, url, monkeypatch, caplog):
    """As where rights or a lock on objects forbid it. Nothing was uploaded any more."""
    one = StoreCopy(tmp_path / "one", url)
    one.pull()
    for name in CHECKPOINT:
        write(one.folder, name)
    one.push()

    def refuse(name):
        raise PermissionError("denied")

    monkeypatch.setattr(one, "delete", refuse)
    for name in CHECKPOINT:
        (one.folder / name).unlink()
    for text in ("first", "second and longer"):
        write(one.folder, "metrics.jsonl", text)
        one.push()
    assert one.read("metrics.jsonl") == b"second and longer"
    assert [name for name in CHECKPOINT if name in stored(url)] == list(CHECKPOINT)
    assert caplog.text.count("not deleted, so it stays: denied") == 1
    monkeypatch.undo()
    one.push()
    assert stored(url) == ["holder", "metrics.jsonl"]


def test_rights_in_a_folder_of_a_bucket_are_enough(tmp_path, url, monkeypatch):
    """To make a folder, pyarrow asks for the bucket, which such rights do not cover."""
    one = StoreCopy(tmp_path / "one", url)

    def refuse(*given, **named):
        raise PermissionError("HeadBucket")

    for name in ("mkdir", "mkdirs", "makedirs"):
        monkeypatch.setattr(one.system, name, refuse)
    one.pull()
    write(one.folder, CHECKPOINT[0])
    one.push()
    assert stored(url) == [CHECKPOINT[0], "holder"]


def test_a_store_that_fails_for_a_moment_does_not_end_a_start(tmp_path, url, monkeypatch):
    monkeypatch.setattr(store_lock, "SETTLE_SECONDS", 0.01)
    read, answers = StoreCopy.read, iter([True, False])  # the second time: whose lock it is now

    def fail_once(self, name):
        if name == store_lock.FILE and not next(answers, True):
            raise OSError("no answer")
        return read(self, name)

    monkeypatch.setattr(StoreCopy, "read", fail_once)
    with run_in_store.hold(configure(url.removesuffix("/a"), f"run.scratch={tmp_path}"), print):
        pass
    assert stored(url) == ["holder"]


def configure(storage, *overrides):
    return load_config(None, [f"run.storage={storage}", "run.name=a", *overrides])


def test_a_run_has_one_command_at_a_time(tmp_path, url, monkeypatch):
    monkeypatch.setattr(holders, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(store_lock, "SETTLE_SECONDS", 0.01)
    monkeypatch.setattr(holders, "STALE_SECONDS", 0.5)
    config = configure(url.removesuffix("/a"), f"run.scratch={tmp_path}")
    with run_in_store.hold(config, print):
        with (
            pytest.raises(ConfigError, match=rf"another command works on this run: .*\({url}\)"),
            run_in_store.hold(config, print),
        ):
            pass
        write(RunPaths.of(config).run, "metrics.jsonl")
    assert stored(url) == ["holder", "metrics.jsonl"]
    # A host that is gone leaves its lock; one that comes back must not go on.
    lock = {"host": "gone", "pid": 1, "token": "a", "beat": 3}
    filesystem(url)[0].pipe(f"{filesystem(url)[1]}/lock.json", json.dumps(lock).encode())
    lines, stops = [], []
    monkeypatch.setattr(run_in_store, "stop_this_process", lambda: stops.append(1))

    def lose() -> None:
        with run_in_store.hold(config, lines.append):
            filesystem(url)[0].pipe(f"{filesystem(url)[1]}/lock.json", json.dumps(lock).encode())
            time.sleep(0.3)

    with pytest.raises(StorageError, match="another command has taken this run over"):
        lose()
    assert "heartbeat of gone" in lines[0]
    assert stops == [1]


def test_reading_takes_a_run_from_nobody(tmp_path, url):
    config = configure(url.removesuffix("/a"), f"run.scratch={tmp_path / 'reader'}")
    run_in_store.fetch(config)
    assert not RunPaths.of(config).run.exists()  # there is nothing to read yet
    one = StoreCopy(tmp_path / "one", url)
    one.pull()
    write(one.folder, "metrics.jsonl")
    one.push()
    one.write(store_lock.FILE, b"{}")
    holder = one.read("holder")
    run_in_store.fetch(config)
    page = RunPaths.of(config).run / "report.html"
    page.write_text("made here")
    run_in_store.upload(config, page)
    assert one.read("holder") == holder
    assert stored(url) == ["holder", "lock.json", "metrics.jsonl", "report.html"]
    write(one.folder, "metrics.jsonl", "more")
    one.push()
    assert stored(url) == ["holder", "lock.json", "metrics.jsonl", "report.html"]
    run_in_store.fetch(config)
    assert (page.parent / "metrics.jsonl").read_text() == "more"
    # What a killed command of that node had not sent stays, also if somebody there reads.
    write(one.folder, "checkpoints/unsent")
    StoreCopy(one.folder, url).refresh()
    assert (one.folder / "checkpoints/unsent").exists()


def test_a_stop_stays_a_stop_if_the_last_upload_fails(tmp_path, url, monkeypatch):
    monkeypatch.setattr(store_lock, "SETTLE_SECONDS", 0.01)
    monkeypatch.setattr(store, "RETRY_SECONDS", 0.01)
    config = configure(url.removesuffix("/a"), f"run.scratch={tmp_path}")

    def fail(self):
        raise OSError("no answer")

    def stopped() -> None:
        with run_in_store.hold(config, print):
            monkeypatch.setattr(StoreCopy, "push", fail)
            raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        stopped()


def test_an_upload_between_two_runs_waits_for_the_one_in_the_background(tmp_path, url, monkeypatch):
    """Both sent the same files at once, and changed what is known of the store."""
    monkeypatch.setattr(store_lock, "SETTLE_SECONDS", 0.01)
    monkeypatch.setattr(run_in_store, "PUSH_SECONDS", 0.05)
    upload, sent, begun = StoreCopy._upload, [], threading.Event()

    def slow(self, name, stamp):
        sent.append(name)
        begun.set()
        time.sleep(0.2)
        upload(self, name, stamp)

    monkeypatch.setattr(StoreCopy, "_upload", slow)
    config = configure(url.removesuffix("/a"), f"run.scratch={tmp_path}")
    with run_in_store.hold(config, print) as bring_up_to_date:
        write(RunPaths.of(config).run, "metrics.jsonl")
        assert begun.wait(5)
        bring_up_to_date()
        assert stored(url) == ["holder", "lock.json", "metrics.jsonl"]
    assert sent == ["metrics.jsonl"]


def test_what_takes_no_url_is_refused_by_name(monkeypatch):
    with pytest.raises(TrackingError, match=r"tracking\.uri: name a server, because run\.storage="):
        preflight.check(configure("s3://bucket/runs"))
    for name in ("run.scratch", "train.shard_cache"):
        with pytest.raises(ConfigError, match=rf"{name}.*must be a local path"):
            load_config(None, [f"{name}=s3://bucket/x"])
    with pytest.raises(ConfigError, match=r"run\.scratch=/tmp/x has no effect"):
        load_config(None, ["run.scratch=/tmp/x"])
    assert load_config(None, ["run.storage=file:///data/runs"]).run.storage == "/data/runs"
    monkeypatch.setenv("WORLD_SIZE", "2")
    with (
        pytest.raises(ConfigError, match="the processes of torchrun need a folder"),
        run_in_store.hold(configure("s3://bucket/runs"), print),
    ):
        pass
