"""The local cluster of a verb."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PROGRAM = """
import sys
from pipeline import ray_cluster
ray_cluster.connect()
print(ray_cluster.cpus_by_node(), ray_cluster.count("CPU"))
if sys.argv[1] == "error":
    raise SystemExit("ended by an error")
"""


@pytest.mark.ray
@pytest.mark.parametrize("ending", ["return", "error"])
def test_a_local_cluster_leaves_no_folder(tmp_path, ending):
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    # Ray refuses long paths of sockets, so the parent can't be pytest's folder.
    parent = Path("/tmp", f"nz{os.getpid()}{ending[0]}")
    parent.mkdir()
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, ending],
            cwd=ROOT,
            env=environment | {"RAY_TMPDIR": str(parent)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == (1 if ending == "error" else 0), done.stderr
        cpus = os.cpu_count()
        assert done.stdout.split() == [f"[{cpus}]", str(cpus)]
        assert list(parent.iterdir()) == []
    finally:
        parent.rmdir()
