"""Groups of Ray tasks that make a call together, as a process group of torch."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import ray
import ray.util
import torch
import torch.distributed as dist
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from pipeline.cluster import ray_cluster
from pipeline.cluster.interfaces import use_interface_of
from pipeline.cluster.peers import reported_by_others


class GroupPlace(NamedTuple):
    """The place of a worker in its group, and the store through which the group meets."""

    rank: int
    number: int
    """Workers of the group."""
    host: str
    port: int
    group: str
    """Prefix of the group's keys in the store."""


class Rendezvous:
    """A store in this process, through which the workers of groups find each other."""

    def __init__(self) -> None:
        self._host = ray.util.get_node_ip_address()
        # The server of torch's store listens on all interfaces, as that of Ray Train's does.
        self._store = dist.TCPStore(self._host, 0, is_master=True, wait_for_workers=False)

    def places(self, group: str, number: int) -> list[GroupPlace]:
        """The places of a group's workers."""
        return [
            GroupPlace(rank, number, self._host, self._store.port, group) for rank in range(number)
        ]


@contextmanager
def joined(place: GroupPlace | None) -> Iterator[None]:
    """Within it, this process belongs to the process group of its place; None: to none."""
    if place is None:
        yield
        return
    use_interface_of(ray.util.get_node_ip_address())
    with reported_by_others():
        store = dist.TCPStore(place.host, place.port, is_master=False)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            store=dist.PrefixStore(place.group, store),
            rank=place.rank,
            world_size=place.number,
        )
    try:
        yield
    finally:
        dist.destroy_process_group()


def start(
    task: Callable[..., Any], places: Iterable[GroupPlace], options: dict[str, Any]
) -> tuple[list[Any], PlacementGroup]:
    """A task for each place; Ray starts all of them when it has room for all.

    A task that died is not run again by itself: its group has gone on without it.

    Args:
        task: takes a place and the options of a Ray task; returns what `remote` gives.
        options: `num_cpus` and `num_gpus` of each worker.
    """
    places = list(places)
    bundle = ray_cluster.bundle_of(options["num_cpus"], options["num_gpus"])
    group = ray.util.placement_group([bundle] * len(places), strategy="PACK")
    found = []
    for place in places:
        bound = PlacementGroupSchedulingStrategy(group, place.rank)
        found.append(task(place, options | {"scheduling_strategy": bound, "max_retries": 0}))
    return found, group


def end(group: PlacementGroup) -> None:
    """Give up what a group holds. Ray ends the tasks that still run there."""
    ray.util.remove_placement_group(group)
