"""What tests share: the data beside the repository, and one local Ray cluster."""

import os
import secrets
import tempfile
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    # Kernels are then run in Python. It has to stand there before they are imported.
    os.environ["TRITON_INTERPRET"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What tests hold runs against is computed here, and bfloat16 products depend on the threads.
torch.set_num_threads(1)
os.environ.setdefault("RAY_AUTH_MODE", "token")
# Ray keeps the token that it reads first in a process, also one of the home folder.
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))

SHARED = Path(__file__).parent.parent.parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of corpora, tasks and vocabulary that lies beside a developer's checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"needs the data folder {SHARED.name}/ beside the repository")
    return SHARED


@pytest.fixture(scope="session")
def ray_cluster():
    """One local cluster for all tests that need Ray; a test may add nodes and take them away."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ["RAY_TMPDIR"] = tempfile.mkdtemp(prefix="nezha-")
    head = {"num_cpus": 4, "include_dashboard": False, "object_store_memory": 1 << 30}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    ray.init(cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()
