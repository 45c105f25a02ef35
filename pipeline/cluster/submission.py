"""A verb as a job of a Ray cluster: what is uploaded, what the job is called, and its log."""

import json
import os
import re
import shlex
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ray._private.ray_constants import RAY_RUNTIME_ENV_IGNORE_GITIGNORE
from ray._private.runtime_env.packaging import _dir_travel, _get_excludes
from ray.exceptions import AuthenticationError, RayError
from ray.job_submission import JobStatus, JobSubmissionClient
from tenacity import Retrying, retry_if_exception_message, stop_after_delay, wait_fixed

from pipeline.errors import ConfigError, TrainingError
from pipeline.files.urls import is_url
from pipeline.progress import Say
from pipeline.settings.config import Config
from pipeline.settings.reading.config_file import files_of, load_config

RAY_API_SERVER_ADDRESS, RAY_ADDRESS = "RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"
DEFAULT_ADDRESS = "http://127.0.0.1:8265"
TOKEN_HELP = (
    "this cluster asks for a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the file "
    "of the cluster's token (`ray get-auth-token --generate` makes one for a new cluster)"
)
UPLOADED = ("jobs", "model", "pipeline")
"""Folders of the working directory that a job needs; the rest stays here."""
LARGEST_BYTES = 20 << 20
"""Code is far smaller; more than this is data that belongs on shared storage."""
AGENT_SECONDS = 120
"""How long a new cluster may take until its agent accepts jobs."""
STOP_SECONDS = 600
"""How long `ray job stop` waits for a checkpoint before it kills the command. Ray's default: 3."""
RELATIVE = ("corpus.inputs", "corpus.heldout", "predict.input", "predict.output")
"""Settings whose relative paths stay relative; those of others were made absolute."""
NAMES = ("predict.model", "compare.run", "compare.checkpoints")
"""Settings whose values may be relative paths, or other names."""
STANDARD = "-"
"""Stands for standard input and output."""
IN_IMAGE = ("torch", "deepspeed", "ray")
"""Packages that nodes must have: builds for their devices, and Ray, which is running."""


class Submission(NamedTuple):
    """A command as a job of Ray: what runs, in which environment, and what is reserved for it."""

    name: str
    """Name of all submissions of the same command on the same run: `RUN-VERB`."""
    words: tuple[str, ...]
    """The command that the cluster runs."""
    runtime_env: dict[str, Any]
    metadata: dict[str, str]
    cpus: float
    """CPUs that are reserved for the command itself."""

    def line(self, address: str) -> str:
        """The plain command that does the same."""
        return ray_job(
            address,
            *("submit", "--submission-id", self.name, "--entrypoint-num-cpus", f"{self.cpus:g}"),
            *("--metadata-json", json.dumps(self.metadata)),
            *("--runtime-env-json", json.dumps(self.runtime_env), "--", *self.words),
        )


def ray_job(address: str, *words: str) -> str:
    """The line of a shell that runs `ray job WORDS` on the cluster of an address.

    Not with `--address`, which Ray ignores where this variable or RAY_ADDRESS is set.
    """
    # The whole word in quotes would be no assignment to a shell.
    return f"{RAY_API_SERVER_ADDRESS}={shlex.quote(address)} {shlex.join(['ray', 'job', *words])}"


def address_of(given: str | None) -> str:
    """The address that is given, or that of the environment, in Ray's order."""
    found = map(os.environ.get, (RAY_API_SERVER_ADDRESS, RAY_ADDRESS))
    return given or next(filter(None, found), DEFAULT_ADDRESS)


def connected(address: str) -> JobSubmissionClient:
    """A client of the cluster of an address, which no variable of the environment overrides.

    Raises:
        ConfigError: no cluster answers there, or it asks for a token.
    """
    os.environ[RAY_API_SERVER_ADDRESS] = address
    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise ConfigError(f"{address}: {TOKEN_HELP}") from error
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        if "uthenticat" in str(error):
            raise ConfigError(f"{address}: {TOKEN_HELP}") from error
        advice = "give the dashboard's address, such as http://HOST:8265"
        raise ConfigError(f"{address}: no cluster answers: {error}; {advice}") from error


def plan(
    root: Path,
    verb: str,
    config_file: str | None,
    overrides: Sequence[str],
    reads: Callable[[str, str], bool],
    *,
    cpus: float,
    install: bool,
) -> Submission:
    """What would be submitted; the settings are checked as the cluster will check them.

    Args:
        root: the working directory, the root of this repository.
        reads: whether a verb reads a setting, given by its dotted name.
        install: install the pinned versions on the nodes, in an environment of the job.

    Raises:
        ConfigError: no such verb, wrong settings, too large an upload, or files that the cluster
            would not see.
    """
    if not all((root / name).is_dir() for name in UPLOADED):
        raise ConfigError(f"{root} is not the root of this repository; submit from there")
    if verb not in (verbs := sorted(verbs_of(root))):
        raise ConfigError(f"there is no verb {verb}; there are {', '.join(verbs)}")
    config = load_config(config_file, overrides)
    files = [Path(os.path.abspath(file)) for file in files_of(config_file)] if config_file else []
    include = set(UPLOADED)
    words = ["python", "-m", f"jobs.{verb}"]
    if config_file:
        for file in files:
            if not file.is_relative_to(root):
                raise ConfigError(f"{file}: the file must be inside {root}, to be uploaded")
            include.add(file.relative_to(root).parts[0])
        words += ["--config", str(files[0].relative_to(root))]
    _check_places(config, root, lambda key: reads(verb, key))
    excludes = excluded(root, include)
    uploaded = uploaded_files(root, excludes)
    if missing := [str(file) for file in files if file not in uploaded]:
        raise ConfigError(
            f"{', '.join(missing)}: Ray uploads no files that .gitignore or .rayignore names; take "
            "another place for it"
        )
    _check_size(root, uploaded)
    environment: dict[str, Any] = {
        "working_dir": str(root),
        "excludes": excludes,
        "env_vars": {"NO_COLOR": "1", "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS)},
    }
    if install:
        environment["pip"] = {"packages": pinned(root), "pip_check": False}
    return Submission(
        name=f"{config.run.name}-{verb}",
        words=(*words, *overrides),
        runtime_env=environment,
        metadata={"run": config.run.name, "verb": verb, "storage": config.run.storage},
        cpus=cpus,
    )


def excluded(root: Path, include: Iterable[str]) -> list[str]:
    """Ray's patterns for what is not uploaded: all but some of the folders and files of `root`."""
    names = sorted(set(os.listdir(root)) - set(include))
    # Not `/*` with exceptions: Ray would leave out the folder itself.
    literal = [re.sub(r"[][*?\\]", r"\\\g<0>", name).replace(" ", "[ ]") for name in names]
    return [*(f"/{name}" for name in literal), "__pycache__"]


def uploaded_files(root: Path, excludes: list[str]) -> list[Path]:
    """What Ray uploads of a folder, links followed, without what .gitignore and .rayignore name."""
    found: list[Path] = []
    gitignore = os.environ.get(RAY_RUNTIME_ENV_IGNORE_GITIGNORE, "0") != "1"
    _dir_travel(root, [_get_excludes(root, excludes)], found.append, include_gitignore=gitignore)
    return [path for path in found if path.is_file()]


def submit(client: JobSubmissionClient, job: Submission) -> str:
    """Submit a job and return its id: the job's name, with a number from the second time on.

    The same command goes on from what an earlier one finished, so only one may run at a time.

    Raises:
        ConfigError: a submission of that name has not ended.
    """
    last = 0
    for each in client.list_jobs():
        number = _number(each.submission_id, job.name)
        last = max(last, number)
        if number and not JobStatus(each.status).is_terminal():
            here, taken = client.get_address(), str(each.submission_id)
            raise ConfigError(
                f"{taken} has not ended ({each.status}); follow it by "
                f"`{ray_job(here, 'logs', '-f', taken)}`, or end it by "
                f"`{ray_job(here, 'stop', taken)}`"
            )
    attempts = Retrying(
        retry=retry_if_exception_message(match=r"(?s).*No available agent.*"),
        stop=stop_after_delay(AGENT_SECONDS),
        wait=wait_fixed(2),
        reraise=True,
    )
    name = f"{job.name}-{last + 1}" if last else job.name
    try:
        return attempts(
            client.submit_job,
            entrypoint=shlex.join(job.words),
            submission_id=name,
            runtime_env=job.runtime_env,
            metadata=job.metadata,
            entrypoint_num_cpus=job.cpus,
        )
    except RuntimeError as error:
        if "already exists" not in str(error):
            raise
        raise ConfigError(f"{name} was submitted by somebody else at the same time") from error


async def follow(client: JobSubmissionClient, name: str, show: Say) -> None:
    """Show the log of a job until it ends.

    Raises:
        TrainingError: the job failed or was stopped.
        ConfigError: the cluster does not answer any more; the job is not affected.
    """
    again = f"follow it again by `{ray_job(client.get_address(), 'logs', '-f', name)}`"
    try:
        async for text in client.tail_job_logs(name):
            show(text)
        info = client.get_job_info(name)
    except (RuntimeError, OSError) as error:
        lost = f"{name}: the connection to the cluster is lost: {error}"
        raise ConfigError(f"{lost}; the job may go on; {again}") from error
    if not info.status.is_terminal():
        raise ConfigError(f"{name} has not ended ({info.status}), but its log has; {again}")
    if info.status != JobStatus.SUCCEEDED:
        # Behind the reason Ray repeats the log, which was shown.
        reason = (info.message or "").partition(", last available logs")[0]
        raise TrainingError(f"{name}: {info.status}: {reason}")


def verbs_of(root: Path) -> Iterator[str]:
    """Names of the verbs that a job may run."""
    for path in (root / "jobs").glob("*.py"):
        if "VERB = Verb(" in path.read_text("utf-8") and path.stem != "torchrun":
            yield path.stem


def pinned(root: Path) -> list[str]:
    """The project's dependencies, in the versions of constraints.txt, without those of the image.

    Raises:
        ConfigError: a dependency has no version there.
    """
    lines = (root / "constraints.txt").read_text("utf-8").splitlines()
    versions = {line.split("==")[0].lower(): line for line in lines if "==" in line}
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    names = [re.split(r"[\[><=~! ]", need, maxsplit=1)[0] for need in project["dependencies"]]
    if missing := [name for name in names if name not in versions]:
        raise ConfigError(f"constraints.txt has no version of {', '.join(missing)}")
    return [versions[name] for name in names if name not in IN_IMAGE]


def _number(submission_id: str | None, name: str) -> int:
    """The number of a submission of this name, of which the first has none; 0: another name."""
    found = re.fullmatch(re.escape(name) + r"(?:-(\d+))?", submission_id or "")
    return int(found[1] or 1) if found else 0


def _check_places(config: Config, root: Path, read: Callable[[str], bool]) -> None:
    """Refuse local paths inside the working directory: the cluster deletes its copy of it."""
    inside = [
        f"{key}={value}"
        for key, value in _texts(config.model_dump(mode="json"))
        if read(key)
        and (
            (os.path.isabs(value) and Path(value).is_relative_to(root))
            or (key in RELATIVE and _is_relative(value) and value != STANDARD)
            or (key in NAMES and _is_relative(value) and Path(root, value).exists())
        )
    ]
    if inside:
        raise ConfigError(
            f"{', '.join(inside)}: the job does not see files of this folder, and what it writes "
            "there is lost; give an absolute path outside it, or a URL"
        )


def _is_relative(path: str) -> bool:
    return bool(path) and not is_url(path) and not os.path.isabs(path)


def _texts(values: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text in settings, in lists and groups too, with the dotted name of its setting."""
    if isinstance(values, dict):
        for name, inside in values.items():
            yield from _texts(inside, f"{key}.{name}" if key else name)
    elif isinstance(values, list):
        for inside in values:
            yield from _texts(inside, key)
    elif isinstance(values, str):
        yield key, values


def _check_size(root: Path, files: Iterable[Path]) -> None:
    sizes = {path.relative_to(root): path.stat().st_size for path in files}
    if sum(sizes.values()) > LARGEST_BYTES:
        largest = sorted(sizes, key=lambda path: -sizes[path])[:3]
        raise ConfigError(
            f"{root} has {sum(sizes.values()) >> 20} MB to upload, and {LARGEST_BYTES >> 20} MB "
            "are allowed; move data to shared storage, first "
            + ", ".join(f"{path} ({sizes[path] >> 20} MB)" for path in largest)
        )
