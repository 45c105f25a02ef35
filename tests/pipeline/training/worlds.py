"""The training loop on any number of ranks, without Ray."""

import torch

from pipeline.settings.config import Config
from pipeline.training.loop import train
from pipeline.training.start.context import Context
from tests.pipeline.training import spawn


class Interrupted(Exception):
    """Ends a rank at its first checkpoint."""


def fit(config: Config, workers: int, interrupted: bool = False) -> None:
    """Train on that many ranks to the end, or end them all after their first checkpoint."""
    spawn.run(workers, _be_worker, config, interrupted)


def distance(curve: dict[int, float], other: dict[int, float]) -> float:
    """Largest relative difference of two curves of the same steps."""
    if curve.keys() != other.keys():
        raise ValueError(f"curves of other steps: {sorted(curve.keys() ^ other.keys())}")
    return max(abs(curve[step] - other[step]) / abs(other[step]) for step in curve)


def _be_worker(config: Config, interrupted: bool) -> None:
    def report(*_: object) -> None:
        if interrupted:
            raise Interrupted

    context = Context(
        rank=torch.distributed.get_rank(),
        world_size=torch.distributed.get_world_size(),
        host="here",
        device=torch.device("cpu"),
        threads=1,
        report=report,
    )
    try:
        train(config, context)
    except Interrupted:
        return
