"""Workers of several nodes find each other where the host's name resolves to a loopback address."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer

from pipeline.cluster.interfaces import interface_of
from pipeline.training.launch.rendezvous import NodeTorchConfig

ROOT = Path(__file__).parents[4]
# One rank in a network of its own, whose host name resolves to 127.0.1.1 as Debian's does.
RANK = """
import os, sys, torch, torch.distributed as dist
from datetime import timedelta
from pipeline.cluster.interfaces import use_interface_of
if sys.argv[2] == "by address":
    use_interface_of(sys.argv[1])
dist.init_process_group("gloo", timeout=timedelta(seconds=20 if sys.argv[2] == "by address" else 5))
total = torch.ones(3)
dist.all_reduce(total)
print("sum", total.tolist())
"""
HOSTS = "127.0.0.1 localhost\n127.0.1.1 nezha-node\n"


def test_the_interface_of_an_address():
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("192.0.2.77") is None


@pytest.mark.long
@pytest.mark.ray
def test_workers_get_the_interface_of_their_node(ray_cluster, tmp_path):
    def report():
        file = tmp_path / str(ray.train.get_context().get_world_rank())
        address = ray.util.get_node_ip_address()
        file.write_text(f"{os.environ['GLOO_SOCKET_IFNAME']} {interface_of(address)}")

    TorchTrainer(
        report,
        torch_config=NodeTorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=2),
        run_config=ray.train.RunConfig(storage_path=str(tmp_path / "ray")),
    ).fit()
    for rank in range(2):
        used, own = (tmp_path / str(rank)).read_text().split()
        assert used == own


@pytest.fixture
def networks():
    """Names of two network namespaces that a cable joins: two machines, for the network."""
    names = [f"nezha{os.getpid()}{end}" for end in "ab"]
    cable = [f"v{os.getpid()}{end}" for end in "ab"]
    with contextlib.ExitStack() as made:
        for name in names:
            if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
                pytest.skip("network namespaces can't be made here")
            made.callback(subprocess.run, ["ip", "netns", "delete", name])
        run = ["ip", "link", "add", cable[0], "type", "veth", "peer", "name", cable[1]]
        if subprocess.run(run, capture_output=True).returncode:
            pytest.skip("virtual cables can't be made here")
        for number, name in enumerate(names, 1):
            inside = ["ip", "-n", name]
            subprocess.run(["ip", "link", "set", cable[number - 1], "netns", name], check=True)
            address = f"10.213.7.{number}/24"
            subprocess.run([*inside, "addr", "add", address, "dev", cable[number - 1]], check=True)
            for link in (cable[number - 1], "lo"):
                subprocess.run([*inside, "link", "set", link, "up"], check=True)
        yield names


def start(name, rank, how, hosts):
    """A rank in a namespace, with a host name and a hosts file of its own."""
    setup = f'mount --bind {hosts} /etc/hosts && hostname nezha-node && exec "$0" "$@"'
    rendezvous = {"MASTER_ADDR": "10.213.7.1", "MASTER_PORT": "29511", "WORLD_SIZE": "2"}
    environment = {k: v for k, v in os.environ.items() if "SOCKET_IFNAME" not in k}
    return subprocess.Popen(
        [
            *("ip", "netns", "exec", name, "unshare", "--mount", "--uts", "sh", "-c", setup),
            *(sys.executable, "-c", RANK, f"10.213.7.{rank + 1}", how),
        ],
        cwd=ROOT,
        env=environment | rendezvous | {"RANK": str(rank)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.long
@pytest.mark.parametrize("how", ["by address", "by name"])
def test_two_machines_whose_names_resolve_to_a_loopback_address(networks, tmp_path, how):
    hosts = tmp_path / "hosts"
    hosts.write_text(HOSTS)
    ranks = [start(name, rank, how, hosts) for rank, name in enumerate(networks)]
    outputs = [process.communicate(timeout=120)[0] for process in ranks]
    if how == "by address":
        assert all("sum [2.0, 2.0, 2.0]" in output for output in outputs), outputs
    else:  # so that this test would notice if the name did no harm
        assert "connectFullMesh failed" in outputs[0] + outputs[1], outputs
