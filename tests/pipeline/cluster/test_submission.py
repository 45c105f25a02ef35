"""What is submitted to a cluster, and under which name."""

import asyncio
import json
import shlex
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.dashboard.utils import get_address_for_submission_client
from ray.exceptions import RpcError
from ray.job_submission import JobStatus

from jobs.submit import reads
from pipeline.cluster import submission
from pipeline.errors import ConfigError, TrainingError

ROOT = Path(__file__).parents[3]
DEMO = "jobs/configs/demo.yaml"
SHARED = ("run.storage=/shared/runs",)


def plan(*overrides, root=ROOT, verb="prepare", config=DEMO, install=False):
    return submission.plan(root, verb, config, overrides, reads, cpus=0, install=install)


def test_the_plain_line_says_all_that_is_submitted(monkeypatch):
    monkeypatch.chdir(ROOT)
    job = plan(*SHARED)
    words = shlex.split(job.line("http://head:8265"))
    assert words[:4] == ["RAY_API_SERVER_ADDRESS=http://head:8265", "ray", "job", "submit"]
    assert words[words.index("--submission-id") + 1] == "demo-prepare"
    command = words[words.index("--") + 1 :]
    assert command == ["python", "-m", "jobs.prepare", "--config", DEMO, *SHARED]
    environment = json.loads(words[words.index("--runtime-env-json") + 1])
    assert int(environment["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) > 60  # for a checkpoint
    uploaded = submission.uploaded_files(ROOT, environment["excludes"])
    names = {path.relative_to(ROOT).as_posix() for path in uploaded}
    assert {DEMO, "pipeline/corpus/prepare.py", "model/__init__.py"} <= names
    assert {name.split("/")[0] for name in names} <= set(submission.UPLOADED)
    assert not any("__pycache__" in name for name in names)


def test_a_shell_takes_the_printed_line_with_any_address():
    """The whole assignment was in quotes, which is a command that no shell finds."""
    address = "http://[::1]:8265"
    line = submission.ray_job(address, "-x").replace(
        "ray job -x", "printenv RAY_API_SERVER_ADDRESS"
    )
    run = subprocess.run(line, shell=True, capture_output=True, text=True, check=True)
    assert run.stdout == f"{address}\n"


def test_packages_have_the_tested_versions(monkeypatch):
    monkeypatch.chdir(ROOT)
    packages = plan(*SHARED, install=True).runtime_env["pip"]["packages"]
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    assert set(packages) < set(lines)
    assert not any(each.startswith(("torch=", "ray=", "deepspeed=")) for each in packages)


def test_what_the_cluster_would_not_see_is_refused(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError, match=r"run\.storage=.*/runs: the job does not see"):
        plan("run.storage=runs")
    with pytest.raises(ConfigError, match=r"corpus\.inputs=data/\*\.txt"):
        plan(*SHARED, "corpus.inputs=[data/*.txt]")
    (tmp_path / "own.yaml").write_text("{}")
    with pytest.raises(ConfigError, match="must be inside"):
        plan(*SHARED, config=str(tmp_path / "own.yaml"))
    with pytest.raises(ConfigError, match="there is no verb torchrun; there are "):
        plan(*SHARED, verb="torchrun")
    with pytest.raises(ConfigError, match="not the root"):
        plan(*SHARED, root=tmp_path)
    with pytest.raises(ConfigError, match=r"train\.stepps: no such setting"):
        plan(*SHARED, "train.stepps=3")


def test_what_the_verb_does_not_read_is_not_refused(monkeypatch):
    """`doctor` was refused for the texts, which it does not read."""
    monkeypatch.chdir(ROOT)
    assert plan(*SHARED, "corpus.inputs=[data/*.txt]", verb="doctor")
    with pytest.raises(ConfigError, match=r"run\.storage=.*/runs: the job does not see"):
        plan("run.storage=runs", verb="doctor")


def test_data_among_the_code_is_refused(monkeypatch, tmp_path):
    for name in submission.UPLOADED:
        shutil.copytree(ROOT / name, tmp_path / name)
    with (tmp_path / "model/weights.bin").open("wb") as file:
        file.truncate(30 << 20)
    config = str(tmp_path / DEMO)
    with pytest.raises(ConfigError, match=r"MB to upload, .* model/weights\.bin \(30 MB\)"):
        plan(*SHARED, root=tmp_path, config=config)


@pytest.fixture
def other_root(monkeypatch, tmp_path):
    """The root of a checkout with files of a user beside the code."""
    for name in submission.UPLOADED:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("old [data]", "a*", "trailing "):
        (tmp_path / name).mkdir()
        (tmp_path / name / "big.bin").touch()
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "base.yaml").write_text("run: {name: based}\n")
    (tmp_path / "mine.yaml").write_text("base: common/base.yaml\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_bases_of_the_settings_are_uploaded_and_nothing_else(other_root):
    """The job failed, as the base was not there; `[` in the name of a folder uploaded it."""
    job = plan(*SHARED, root=other_root, config="mine.yaml")
    found = submission.uploaded_files(other_root, job.runtime_env["excludes"])
    names = {path.relative_to(other_root).as_posix() for path in found}
    assert {"mine.yaml", "common/base.yaml"} <= names
    assert {name.split("/")[0] for name in names} == {*submission.UPLOADED, "mine.yaml", "common"}
    (other_root / ".gitignore").write_text("common/*\n")
    with pytest.raises(
        ConfigError, match=r"common/base\.yaml: Ray uploads no files that \.gitignore"
    ):
        plan(*SHARED, root=other_root, config="mine.yaml")
    (other_root / "common" / "base.yaml").write_text("base: ../../out.yaml\n")
    (other_root.parent / "out.yaml").write_text("{}\n")
    with pytest.raises(ConfigError, match=r"out\.yaml: the file must be inside"):
        plan(*SHARED, root=other_root, config="mine.yaml")


def test_what_a_link_leads_to_is_uploaded_and_so_counted(other_root):
    with (other_root / "old [data]" / "big.bin").open("wb") as file:
        file.truncate(30 << 20)
    plan(*SHARED, root=other_root, config="mine.yaml")
    (other_root / "pipeline" / "linked").symlink_to(other_root / "old [data]")
    with pytest.raises(ConfigError, match=r"pipeline/linked/big\.bin \(30 MB\)"):
        plan(*SHARED, root=other_root, config="mine.yaml")


@pytest.mark.parametrize(
    ("verb", "setting"),
    [
        (
            "pretrain",
            "train.phases=[{after: 9, sequence_length: 64, global_batch: 4, shards: [a]}]",
        ),
        ("predict", "predict.input=in.jsonl"),
        ("predict", "predict.output=out.jsonl"),
        ("predict", "predict.model=common"),
        ("ablate", "ablate.variants={a: {train.shards: [common]}}"),
    ],
)
def test_files_that_the_job_does_not_see_are_refused_wherever_they_are_named(
    other_root, verb, setting
):
    setting = setting.replace("[common]", f"[{other_root}/common]")
    with pytest.raises(ConfigError, match="the job does not see files of this folder"):
        plan(*SHARED, setting, root=other_root, verb=verb, config=None)


class Client:
    """Stands for Ray's client: it keeps the jobs that it is given."""

    def __init__(self, jobs):
        self.jobs = jobs

    def get_address(self):
        return "http://head:8265"

    def list_jobs(self):
        return [SimpleNamespace(submission_id=k, status=v) for k, v in self.jobs.items()]

    def submit_job(self, submission_id, **_):
        assert submission_id not in self.jobs
        self.jobs[submission_id] = JobStatus.PENDING
        return submission_id


def test_the_same_line_again_has_the_next_number_once_the_last_has_ended(monkeypatch):
    monkeypatch.chdir(ROOT)
    client, job = Client({"demo-prepare-export": JobStatus.RUNNING}), plan(*SHARED)
    assert submission.submit(client, job) == "demo-prepare"
    with pytest.raises(ConfigError, match="ADDRESS=http://head:8265 ray job logs -f demo-prepare`"):
        submission.submit(client, job)
    client.jobs["demo-prepare"] = JobStatus.FAILED
    assert submission.submit(client, job) == "demo-prepare-2"
    client.jobs = {"demo-prepare-2": JobStatus.SUCCEEDED}  # the first one was deleted
    assert submission.submit(client, job) == "demo-prepare-3"


def test_of_two_submissions_at_once_one_is_refused(monkeypatch):
    """It ended with a traceback of Ray."""
    monkeypatch.chdir(ROOT)

    def taken(**_):
        raise RuntimeError("Job with submission_id demo-prepare already exists.")

    client = Client({})
    client.submit_job = taken
    with pytest.raises(ConfigError, match="demo-prepare was submitted by somebody else"):
        submission.submit(client, plan(*SHARED))


@pytest.mark.parametrize("variable", ["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"])
def test_the_given_address_counts_and_not_that_of_a_variable(monkeypatch, variable):
    """Ray took the variable's, and the command said that it had submitted to the other."""
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    assert submission.address_of(None) == "http://127.0.0.1:9"
    # Without a cluster: what Ray's client does first.
    monkeypatch.setattr(submission, "JobSubmissionClient", get_address_for_submission_client)
    given = submission.address_of("http://127.0.0.1:7")
    assert submission.connected(given) == "http://127.0.0.1:7"


def test_an_address_that_is_none_is_told_in_a_line(monkeypatch):
    """`HOST:8265` without `http://` ended with a traceback."""

    def no_answer(address):
        raise RpcError("Timed out while waiting for GCS to become available.", rpc_code=1)

    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
    monkeypatch.setattr(submission, "JobSubmissionClient", no_answer)
    with pytest.raises(ConfigError, match=r"no cluster answers: Timed out .* give the dashboard's"):
        submission.connected("head:8265")


def test_a_port_is_no_refusal_of_a_token(monkeypatch):
    """Of a port with 401 or 403 in its number it said that the cluster asks for a token."""
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
    with pytest.raises(ConfigError, match=":4031: no cluster answers: Failed to connect"):
        submission.connected("http://127.0.0.1:4031")


@pytest.mark.parametrize(
    ("status", "broken", "told"),
    [
        (JobStatus.FAILED, False, "job: FAILED: exit code 2$"),
        (
            JobStatus.RUNNING,
            False,
            "job has not ended .RUNNING.*again by `RAY_API.* ray job logs",
        ),
        (JobStatus.RUNNING, True, "the connection to the cluster is lost: closed.*the job may go"),
    ],
)
def test_a_log_that_breaks_off_is_no_failure_of_the_job(status, broken, told):
    class Cluster(Client):
        async def tail_job_logs(self, _):
            yield "step 1"
            if broken:
                raise RuntimeError("closed")

        def get_job_info(self, _):
            message = "exit code 2, last available logs (truncated to 20,000 chars):\nstep 1"
            return SimpleNamespace(status=status, message=message)

    shown = []
    error = TrainingError if status == JobStatus.FAILED else ConfigError
    with pytest.raises(error, match=told):
        asyncio.run(submission.follow(Cluster({}), "job", shown.append))
    assert shown == ["step 1"]
