"""The store of MLflow: its address, whether it answers, and what its failures mean."""

import logging
import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import mlflow
from mlflow.environment_variables import (
    MLFLOW_HTTP_REQUEST_MAX_RETRIES,
    MLFLOW_HTTP_REQUEST_TIMEOUT,
)
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from pipeline.errors import NezhaError, TrackingError
from pipeline.files.urls import is_url
from pipeline.passwords import without_password
from pipeline.settings.config import Config

UNREACHABLE = (MlflowException, OSError, SQLAlchemyError)
"""What MLflow raises for a store that cannot be used."""
REACH_SECONDS = 5
BRIEF_SECONDS = 10
# MLflow's own seven retries of two minutes would keep a run waiting, and its metrics.
for variable, brief in (
    (MLFLOW_HTTP_REQUEST_MAX_RETRIES, 1),
    (MLFLOW_HTTP_REQUEST_TIMEOUT, BRIEF_SECONDS),
):
    if not variable.is_set():
        variable.set(brief)
CHOSEN_ELSEWHERE = os.environ.get("MLFLOW_TRACKING_URI", "")
"""As the command was given it: MLflow itself sets the variable to the store in use."""
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
# MLflow logs each failure of a database with a traceback, and raises it too.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
logger = logging.getLogger(__name__)


def tracking_uri(config: Config) -> str:
    """The user's server or database, or a SQLite file in the storage folder.

    Raises:
        TrackingError: a scheme that MLflow 3 refuses, a database without its driver or in memory,
            or no server where the storage is a URL.
    """
    if is_url(config.run.storage) and not config.tracking.uri:
        raise TrackingError(
            f"tracking.uri: name a server, because run.storage={config.run.storage} is a URL, and "
            "SQLite needs a disk"
        )
    uri = config.tracking.uri or _sqlite(f"{config.run.storage}/mlflow.db")
    if not uri.startswith(("http://", "https://", "sqlite://", "postgresql", "mysql", "mssql")):
        raise TrackingError(
            f"tracking.uri={uri}: MLflow 3 needs a server (http://…) or a database (sqlite:///…)"
        )
    if uri.startswith("sqlite"):
        return _with_absolute_path(uri)
    if not uri.startswith("http"):
        try:
            make_url(uri).get_dialect().import_dbapi()
        except (ImportError, SQLAlchemyError) as error:
            raise TrackingError(
                f"tracking.uri={uri.split(':')[0]}://…: {error}; for PostgreSQL install the extra "
                "`server` and write postgresql+psycopg2://…, or give the address of a server"
            ) from None
    return uri


def shown_uri(config: Config) -> str:
    """`tracking_uri` for records and messages."""
    return without_password(tracking_uri(config))


def existing_store(config: Config) -> str:
    """The store, to be read.

    Raises:
        TrackingError: it is a SQLite file that does not exist. MLflow would try for minutes.
    """
    uri = tracking_uri(config)
    if is_missing(config):
        raise TrackingError(
            f"there is no MLflow database {database_file(uri)}: set run.storage or tracking.uri"
        )
    return uri


def is_missing(config: Config) -> bool:
    """Whether the store is a SQLite file that does not exist, and so holds nothing."""
    path = database_file(tracking_uri(config))
    return path is not None and not path.is_file()


def is_reachable(config: Config) -> bool:
    """Whether the server and its database answer.

    Of a database that is named itself, whether its port answers, or another process locks its file.
    """
    uri = tracking_uri(config)
    return _server_answers(uri) if uri.startswith("http") else _database_answers(uri)


@contextmanager
def required(what: str, advice: str = "") -> Iterator[None]:
    """Raise TrackingError, a message that begins with `what`, where the store fails."""
    try:
        yield
    except UNREACHABLE as error:
        if getattr(error, "error_code", "") == "ENDPOINT_NOT_FOUND":
            raise TrackingError(
                f"{what}: the server answers 404 to a call of MLflow {mlflow.__version__}. Update "
                "a server of MLflow 2; if it stands behind a path, add that to tracking.uri "
                "(http://HOST/PATH)"
            ) from error
        raise TrackingError(f"{what}: {reason(error)}{advice}") from error


@contextmanager
def optional(run_id: str, what: str) -> Iterator[None]:
    """Warn of what a run could not do where the store fails, and go on."""
    try:
        yield
    except UNREACHABLE as error:
        logger.warning("MLflow run %s could not %s: %s", run_id, what, reason(error))


def reason(error: Exception) -> str:
    """What a failure of the store says, without passwords, and without the statement of SQL."""
    given = getattr(error, "orig", None) or getattr(error.__cause__, "orig", None)
    return without_password(str(given or error))


@contextmanager
def moving_files() -> Iterator[None]:
    """Let requests take minutes: a server answers when it has a file in its object store.

    Files that MLflow takes to an object store or a disk itself fail with whatever the package of
    that store raises, or because there is no such package. That becomes an MlflowException.
    """
    seconds = MLFLOW_HTTP_REQUEST_TIMEOUT.get()
    if seconds == BRIEF_SECONDS:  # else the user has chosen it
        MLFLOW_HTTP_REQUEST_TIMEOUT.unset()
    try:
        yield
    except (NezhaError, *UNREACHABLE):
        raise
    except Exception as error:
        raise MlflowException(f"{type(error).__name__}: {error}") from error
    finally:
        MLFLOW_HTTP_REQUEST_TIMEOUT.set(seconds)


def _sqlite(path: str) -> str:
    """The URL of a database file; a `?` would begin the options of the URL."""
    return f"sqlite:///{path.replace('%', '%25').replace('?', '%3F')}"


def _with_absolute_path(uri: str) -> str:
    """The URL of a SQLite file for processes in any working directory.

    Raises:
        TrackingError: it names no file.
    """
    try:
        path = make_url(uri).database or ""
    except SQLAlchemyError as error:
        raise TrackingError(f"tracking.uri={uri}: {error}") from None
    if path in ("", ":memory:"):
        raise TrackingError(
            f"tracking.uri={uri}: name a file (sqlite:////FOLDER/mlflow.db); a database in memory "
            "ends with the command"
        )
    if os.path.isabs(path) or path.startswith("file:"):
        return uri
    options = uri.partition("?")[2]
    whole = _sqlite(os.path.abspath(os.path.expanduser(path)))
    return f"{whole}?{options}" if options else whole


def database_file(uri: str) -> Path | None:
    """The file of a SQLite database."""
    path = str(make_url(uri).database) if uri.startswith("sqlite") else "file:"
    return None if path.startswith("file:") else Path(path)


def _server_answers(uri: str) -> bool:
    try:
        # By MLflow's own client: others know neither its certificates nor its credentials.
        # `/health` answers also where the database is down.
        answer = http_request(
            get_default_host_creds(uri),
            "/api/2.0/mlflow/experiments/get?experiment_id=0",
            "GET",
            max_retries=0,
            timeout=REACH_SECONDS,
            raise_on_status=False,
        )
    except MlflowException:
        return False
    # A proxy answers 502 to 504 for a server that is down, and the server 503 for a database.
    # Other refusals are told by MLflow.
    return answer.status_code < 500


def _database_answers(uri: str) -> bool:
    if (path := database_file(uri)) and path.is_file():
        return not _is_locked(path)
    url = make_url(uri)
    port = url.port or PORTS.get(url.get_backend_name())
    try:
        if url.host and port:  # MLflow would try for minutes
            socket.create_connection((url.host, port), REACH_SECONDS).close()
    except OSError:
        return False
    return True


def _is_locked(path: Path) -> bool:
    """Whether a SQLite file stays locked for REACH_SECONDS."""
    try:
        with closing(sqlite3.connect(path, timeout=REACH_SECONDS)) as database:
            database.execute("BEGIN IMMEDIATE")
    except sqlite3.Error as error:
        return "locked" in str(error)
    return False
