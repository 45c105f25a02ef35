"""Workers that share a fine-tuning: each takes a part of every batch, gradients are added up."""

import random
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.cluster.peers import reported_by_others

T = TypeVar("T")


class Workers(NamedTuple):
    """The workers of a group, as one of them sees it. All of them call the same methods."""

    rank: int = 0
    number: int = 1

    @classmethod
    def of_process(cls) -> "Workers":
        """Those of torch's process group; this process alone if there is none."""
        return cls(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else cls()

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This worker's items: every `number`-th, so that items sorted by length are shared evenly.

        The shares differ by one item at most; the last ones may be empty.
        """
        return items[self.rank :: self.number]

    def start_alike(self, network: nn.Module, seed: int) -> None:
        """Give all workers the weights of the first one, and each dropout of its own.

        The first one goes on with the state of torch's generator that it has.
        """
        if self.number == 1:
            return
        with reported_by_others():
            for tensor in network.state_dict().values():
                dist.broadcast(tensor, 0)
        if self.rank:
            torch.manual_seed(random.Random(f"{seed} {self.rank}").getrandbits(63))

    def add_up(self, network: nn.Module, loss: Tensor) -> Tensor:
        """Replace the gradients by their sums over the workers; returns the sum of the losses."""
        if self.number == 1:
            return loss
        found = [each.grad for each in network.parameters() if each.grad is not None]
        parts = [*found, loss]
        flat = torch.cat([part.flatten() for part in parts])
        with reported_by_others():
            dist.all_reduce(flat)
        *gradients, losses = flat.split([part.numel() for part in parts])
        for part, total in zip(found, gradients, strict=True):
            part.copy_(total.view_as(part))
        return losses.view_as(loss)

    def collect(self, own: Sequence[T]) -> list[T]:
        """What the workers made of their shares, in the order of the items that were shared."""
        if self.number == 1:
            return list(own)
        parts: list[Any] = [None] * self.number
        with reported_by_others():
            dist.all_gather_object(parts, list(own))
        found: list[Any] = [None] * sum(map(len, parts))
        for rank, part in enumerate(parts):
            found[rank :: self.number] = part
        return found


ALONE = Workers()
