"""The network interface through which the workers of several nodes find each other.

gloo listens on the address that the host's name resolves to. Debian's /etc/hosts gives 127.0.1.1,
so that workers of other nodes cannot connect (`Gloo connectFullMesh failed`). Ray knows an address
of each node that the others reach; its interface is the one to use.
"""

import os

import psutil


def interface_of(address: str) -> str | None:
    """Name of the network interface that has an address; None where no interface has it."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address.partition("%")[0] == address for each in addresses):
            return name
    return None


def use_interface_of(address: str) -> None:
    """Make gloo and NCCL of this process use the interface of an address, unless the user chose.

    NCCL looks for an interface by itself and skips `lo`, which it needs where all nodes are on one
    machine; with several networks it may find one that other nodes do not reach.
    """
    if name := interface_of(address):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={name}")  # `=`: the whole name
