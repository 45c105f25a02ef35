"""What facts about nodes mean."""

from types import MappingProxyType

from fsspec.implementations.local import LocalFileSystem

from pipeline.doctor.findings import judge
from pipeline.doctor.node import OTHER_BUCKET, OWN_DISK, Facts, examine_storage, versions

ASKED = (1000.0, 1010.0)
GOOD = Facts(
    host="10.0.0.1/aaaaaa",
    versions={"python": "3.11.9", "torch": "2.13.0"},
    cpus=64,
    memory_gigabytes=500.0,
    shared_memory_gigabytes=64.0,
    disk_gigabytes=900.0,
    clock=1004.0,
    gpus=(("A100", 250.0), ("A100", 240.0)),
    storage="",
    written=400.0,
    read=800.0,
)


def other(**facts):
    return GOOD._replace(host="10.0.0.2/bbbbbb", **facts)


def problems(*nodes, failed=MappingProxyType({}), disk=0.0):
    return [(f.host, f.problem, f.fatal) for f in judge([GOOD, GOOD, *nodes], failed, ASKED, disk)]


def test_nothing_is_said_of_good_nodes():
    assert problems(other(clock=1012.0)) == []


def test_each_fault_names_its_node_and_what_to_do():
    cases = {
        "has torch 2.12.0": (other(versions=GOOD.versions | {"torch": "2.12.0"}), True),
        "GPU 1 (A100) computes wrongly": (other(gpus=(("A100", 250.0), ("A100", 0.0))), True),
        "GPU 0 (A100) reaches 100 TFLOP/s, the median is 240": (
            other(gpus=(("A100", 100.0), ("A100", 240.0))),
            False,
        ),
        "has 1 GPUs, other nodes have 2": (other(gpus=(("A100", 250.0),)), False),
        "does not see run.storage": (other(storage=OWN_DISK), False),
        "can't use run.storage: no such bucket": (other(storage="no such bucket"), True),
        "writes 4 and reads 800 MB/s of run.storage": (other(written=4.0), False),
        "/dev/shm has 0.06 GB": (other(shared_memory_gigabytes=0.064), False),
        "its clock differs by +90 s": (other(clock=1100.0), False),
        "its clock differs by -60 s": (other(clock=940.0), False),
    }
    for expected, (facts, fatal) in cases.items():
        assert problems(facts) == [("10.0.0.2/bbbbbb", expected, fatal)]
    failed = {"10.0.0.3/cccccc": "does not answer"}
    assert problems(failed=failed) == [("10.0.0.3/cccccc", "does not answer", True)]
    ((_, problem, fatal),) = problems(other(disk_gigabytes=9.0), disk=50.0)
    assert problem == "9 GB of disk are free, the cache may take 50 GB"
    assert fatal
    (finding,) = judge([GOOD, other(storage="x")], {}, ASKED)
    assert str(finding).startswith("10.0.0.2/bbbbbb: can't use run.storage: x; mount the same")


def test_a_storage_that_takes_no_file_tells_the_reason_of_writing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    (tmp_path / "marker").touch()
    monkeypatch.setattr(LocalFileSystem, "pipe_file", full)
    problem, *_ = examine_storage(str(tmp_path), "marker", quick=True)
    assert problem == "[Errno 28] No space left on device"


def test_storage_that_is_not_shared_is_noticed(tmp_path):
    assert examine_storage(str(tmp_path), "marker", quick=False)[0] == OWN_DISK
    assert examine_storage(f"memory://{tmp_path}", "marker", quick=True)[0] == OTHER_BUCKET
    (tmp_path / "marker").touch()
    problem, written, read = examine_storage(str(tmp_path), "marker", quick=False)
    assert problem == ""
    assert min(written, read) > 0
    assert examine_storage(str(tmp_path), "marker", quick=True) == ("", 0.0, 0.0)
    assert [each.name for each in tmp_path.iterdir()] == ["marker"]
    assert versions()["torch"].startswith("2.")
