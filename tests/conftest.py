"""What tests share: the data beside the repository, and one local Ray cluster."""

import os
import tempfile
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    # Kernels are then run in Python. It has to stand there before they are imported.
    os.environ["TRITON_INTERPRET"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_AUTH_MODE", "token")

SHARED = Path(__file__).parent.parent.parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of corpora, tasks and vocabulary that lies beside a developer's checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the data folder {SHARED.name}/ beside the repository")
    return SHARED


@pytest.fixture(scope="session")
def ray_cluster():
    """One local cluster for all tests that need Ray."""
    import ray

    os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="nezha-")
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
