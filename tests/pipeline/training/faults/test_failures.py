"""What failed workers mean: a restart, a rewind, or the end of the run with its reason."""

from pathlib import Path

import pytest

from pipeline.errors import ShardError, TrainingError
from pipeline.paths import RunPaths
from pipeline.settings.config import Config
from pipeline.settings.reading.config_file import with_changes
from pipeline.training.faults import events, failures, hang, workers
from pipeline.training.faults.divergence import diverged
from pipeline.training.faults.hang import STACKS
from tests.pipeline.corpus.made import make_corpus
from tests.pipeline.training.checkpoints.test_files import make


class RayActorError(Exception):
    """Named as Ray's; a dead worker's error."""


class Wrapped(Exception):
    def __init__(self, error):
        super().__init__("traceback of Ray")
        self._base_exc = error


@pytest.fixture
def run(tmp_path):
    faults = {"max_failures": 2, "spike": "rewind"}
    later = {"after": 5, "sequence_length": 256, "global_batch": 4}
    config = Config.model_validate(
        {"run": {"storage": str(tmp_path)}, "faults": faults, "train": {"phases": [later]}}
    )
    paths = RunPaths.of(config)
    paths.checkpoints.mkdir(parents=True)
    workers.write_workers(paths.run, [workers.Worker("10.0.0.1", 7), workers.Worker("10.0.0.2", 8)])
    return config, paths, failures.FailurePolicy(config)


def texts(paths):
    return [(event["kind"], event["text"]) for event in events.read(paths.run)]


def test_a_death_is_named_rather_than_what_it_did_to_others(run):
    _, paths, policy = run
    make(paths.checkpoints, 1200)
    broken = RuntimeError("Connection closed by peer\nmore")
    assert policy.decide({0: Wrapped(broken), 1: RayActorError("killed\n")}) is None
    assert policy.decide({0: Wrapped(broken)}) is None
    assert texts(paths) == [
        (
            "restart",
            "worker 1 on 10.0.0.2 (pid 8) died (killed); restart 1 of 2, from checkpoint_001200",
        ),
        (
            "restart",
            "worker 0 on 10.0.0.1 (pid 7) failed (RuntimeError: Connection closed by peer); "
            "restart 2 of 2, from checkpoint_001200",
        ),
    ]


def test_the_budget_counts_failures_since_the_last_new_checkpoint(run):
    _, paths, policy = run
    death = {0: RayActorError("killed")}
    for step in (0, 100, 200):
        if step:
            make(paths.checkpoints, step)
        assert policy.decide(death) is None
        assert policy.decide(death) is None
    error = policy.decide(death)
    assert isinstance(error, TrainingError)
    assert "failure number 3 without a new checkpoint (faults.max_failures=2)" in str(error)
    assert "the same command goes on from checkpoint_000200" in str(error)


def test_a_users_mistake_stops_the_run_unchanged(run):
    _, paths, policy = run
    error = ShardError("shard 3 is damaged")
    assert policy.decide({1: Wrapped(error)}) is error
    assert texts(paths) == [("stop", "stopped: shard 3 is damaged")]


def test_a_run_that_diverges_goes_back_past_the_data_and_stops_if_that_does_not_help(run):
    _, paths, policy = run
    make(paths.checkpoints, 100)
    assert failures.batches_skipped(paths.run, 100) == 0
    for step in (130, 110, 140):
        assert policy.decide({0: Wrapped(diverged(step, "the loss jumped"))}) is None
    assert failures.batches_skipped(paths.run, 100) == 30 + 10 + 40
    assert failures.batches_skipped(paths.run, 0) == 0
    again = failures.FailurePolicy(run[0])  # another command on the same run
    error = again.decide({0: Wrapped(diverged(120, "the loss jumped"))})
    assert "diverged 4 times from step 100" in str(error)


def test_spike_stop_does_not_rewind(run):
    config, paths, _ = run
    policy = failures.FailurePolicy(with_changes(config, {"faults.spike": "stop"}, ""))
    error = diverged(130, "the loss jumped")
    assert policy.decide({0: error}) is error
    assert failures.batches_skipped(paths.run, 0) == 0


def test_the_worker_without_stacks_is_named(run):
    _, paths, policy = run
    (paths.run / STACKS).mkdir()
    (paths.run / STACKS / "rank_0.txt").write_text("Thread 1 …")
    (paths.run / STACKS / "rank_1.txt").touch()
    policy.decide({0: RayActorError("exit code 1")})
    text = texts(paths)[0][1]
    assert text.startswith("worker 1 on 10.0.0.2 (pid 8) made no step for 900 s")
    assert failures.hung_ranks(paths.run, {0: RayActorError("exit code 1")}) == [1]
    # A rank that raised because another one ended did not hang.
    errors = {0: RayActorError("exit code 1"), 1: Wrapped(RuntimeError("closed by peer"))}
    assert failures.hung_ranks(paths.run, errors) == [0]
    hang.clear(paths.run)
    assert failures.hung_ranks(paths.run, errors) == []
    assert [path.name[:7] for path in paths.run.glob("stacks*")] == ["stacks_"]


def test_a_cut_event_hides_no_other(run):
    _, paths, _ = run
    events.record(paths.run, "restart", "one")
    with (paths.run / events.FILE).open("a") as file:
        file.write('{"kind": "rest')
    assert texts(paths) == [("restart", "one")]
    events.record(paths.run, "restart", "two")
    assert texts(paths) == [("restart", "one"), ("restart", "two")]


@pytest.mark.parametrize("phase", ["first", "later"])
def test_a_death_by_a_truncated_shard_stops_the_run_and_names_it(run, phase):
    """Reading what was cut from a mapped file ends the process (SIGBUS) without a word."""
    _, paths, policy = run
    folder = Path(paths.shards if phase == "first" else paths.later[0][0])
    make_corpus(folder)
    shard = folder / "shard-00001.arrow"
    shard.open("r+b").truncate(100)
    error = policy.decide({1: RayActorError("killed by SIGBUS")})
    assert isinstance(error, ShardError)
    assert f"{shard}: 100 bytes, the manifest says" in str(error)


def test_a_worker_that_the_system_killed_for_its_memory_is_told_what_to_lower(run):
    config, paths, policy = run
    killed = RayActorError("the node is running low on memory")
    assert policy.decide({1: killed}) is None
    ((_, text),) = texts(paths)
    assert "; lower train.micro_batch (now 32; the global batch stays)" in text
    shrinking = failures.FailurePolicy(with_changes(config, {"faults.shrink_on_oom": True}, ""))
    assert shrinking.decide({1: killed}) is None
    assert texts(paths)[-1][0] == "shrink"
    happened = events.read(paths.run)
    assert failures.shrunk(config, happened).train.micro_batch == 16
    other = with_changes(config, {"train.micro_batch": 8}, "")
    assert failures.shrunk(other, happened).train.micro_batch == 8  # another setting stays
    assert policy.decide({1: killed}) is None
    assert "lower train.micro_batch (now 16;" in texts(paths)[-1][1]  # what did not fit
