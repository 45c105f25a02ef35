"""One node by itself: what it has, and whether it works. Runs as a Ray task on that node."""

import contextlib
import os
import platform
import shutil
import tempfile
import time
import uuid
from importlib import metadata
from typing import NamedTuple

import psutil
import torch

from pipeline.cpu import usable_cpus
from pipeline.errors import NezhaError
from pipeline.files.storage import filesystem
from pipeline.files.urls import is_url

PACKAGES = ("torch", "ray", "deepspeed", "transformers", "pyarrow", "numpy", "mlflow")
MEASURED_BYTES = 32 << 20
"""Bytes that are written to the storage and read again."""
PRODUCT = 2048
"""Rows and columns of the matrices that a GPU multiplies."""
OWN_DISK = "has a disk of its own there"
"""`Facts.storage` of a node that does not see the folder of the others."""
OTHER_BUCKET = "it is not the place that the other nodes see"
"""`Facts.storage` of a node whose store at the URL is another one."""


class Facts(NamedTuple):
    """What a node found out about itself."""

    host: str
    """Address and, after a slash, the first characters of Ray's node id."""
    versions: dict[str, str]
    cpus: int
    memory_gigabytes: float
    """Memory that is free."""
    shared_memory_gigabytes: float
    """Size of /dev/shm, through which Ray's object store and NCCL work."""
    disk_gigabytes: float
    """Free space of the folder for shards and spilled objects."""
    clock: float
    """Seconds since the epoch, when it was asked."""
    gpus: tuple[tuple[str, float], ...]
    """Of each GPU its name and the TFLOP/s of a product of matrices; 0 if the result is wrong."""
    storage: str
    """Why the storage can't be used; empty if it can."""
    written: float
    read: float
    """Megabytes a second of the storage; 0 if they were not measured."""


def examine(host: str, storage: str, marker: str, cache: str, quick: bool) -> Facts:
    """Examine the node that this runs on.

    Args:
        host: how to call it.
        storage: folder or URL that is looked at.
        marker: name of a file that another node wrote there.
        cache: folder for shards of object stores; empty: the temporary folder.
        quick: do not measure the storage.
    """
    clock = time.time()
    problem, written, read = examine_storage(storage, marker, quick)
    return Facts(
        host=host,
        versions=versions(),
        cpus=usable_cpus(),
        memory_gigabytes=psutil.virtual_memory().available / 1e9,
        shared_memory_gigabytes=shutil.disk_usage("/dev/shm").total / 1e9,
        disk_gigabytes=shutil.disk_usage(_existing(cache or tempfile.gettempdir())).free / 1e9,
        clock=clock,
        gpus=tuple(examine_gpu(index) for index in range(torch.cuda.device_count())),
        storage=problem,
        written=written,
        read=read,
    )


def versions() -> dict[str, str]:
    """Versions of what must be the same on all nodes."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def examine_storage(storage: str, marker: str, quick: bool) -> tuple[str, float, float]:
    """What is wrong with the storage, and megabytes a second of writing and reading."""
    try:
        system, folder = filesystem(storage)
        if not system.exists(f"{folder}/{marker}"):
            return OTHER_BUCKET if is_url(storage) else OWN_DISK, 0.0, 0.0
        name, data = f"{folder}/.doctor-{uuid.uuid4().hex}", os.urandom(MEASURED_BYTES)
        size = 1 if quick else MEASURED_BYTES
        try:
            seconds = [time.monotonic()]
            system.pipe_file(name, data[:size])
            seconds.append(time.monotonic())
            same = system.cat_file(name) == data[:size]
            seconds.append(time.monotonic())
        finally:
            # An error of writing must not be replaced by that of removing what was not written.
            with contextlib.suppress(FileNotFoundError):
                system.rm_file(name)
    except (OSError, NezhaError) as error:
        return str(error), 0.0, 0.0
    if not same:
        return "what is read is not what was written", 0.0, 0.0
    if quick:
        return "", 0.0, 0.0
    writing, reading = seconds[1] - seconds[0], seconds[2] - seconds[1]
    return "", size / 1e6 / writing, size / 1e6 / reading


def examine_gpu(index: int) -> tuple[str, float]:
    """Name and TFLOP/s of a GPU in bf16, or 0 where the product is wrong."""
    device = torch.device("cuda", index)
    ones = torch.ones(PRODUCT, PRODUCT, dtype=torch.bfloat16, device=device)
    right = bool((ones @ ones == PRODUCT).all())
    torch.cuda.synchronize(device)
    start_time = time.monotonic()
    for _ in range(20):
        ones @ ones
    torch.cuda.synchronize(device)
    tflops = 20 * 2 * PRODUCT**3 / (time.monotonic() - start_time) / 1e12
    return torch.cuda.get_device_name(device), tflops if right else 0.0


def _existing(folder: str) -> str:
    """The folder, or the nearest one above it that exists."""
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder) or "/"
    return folder
