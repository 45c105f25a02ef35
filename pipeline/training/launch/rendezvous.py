"""Ray Train's process group, on the interface of each worker's Ray node."""

from typing import Any

import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

from pipeline.cluster.interfaces import use_interface_of


class NodeTorchConfig(TorchConfig):
    """Ray Train's settings of a process group, for workers on several nodes."""

    @property
    def backend_cls(self) -> type:
        return _NodeBackend


class _NodeBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(_use_node_interface)
        super().on_start(worker_group, backend_config)


def _use_node_interface() -> None:
    use_interface_of(ray.util.get_node_ip_address())
