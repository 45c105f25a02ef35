"""What a worker of Ray Train does: it trains."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
from ray.train.v2._internal.execution.context import get_train_context

from pipeline.paths import RunPaths
from pipeline.settings.config import Config
from pipeline.training.faults import stop


def run(given: dict[str, Any]) -> dict[str, Any]:
    """What each worker runs: `train`, with the settings and the MLflow run that it is given."""
    # The controller imports this module too, and does not need what training needs.
    from pipeline.training.loop import Context, train

    context = ray.train.get_context()
    config = Config.model_validate(given["config"])
    folder = RunPaths.of(config).run
    launch = Context(
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        host=ray.util.get_node_ip_address(),
        device=ray.train.torch.get_device(),
        threads=max(1, int(config.scaling.cpus_per_worker)),
        report=_report,
        tracking=given["tracking"] and tuple(given["tracking"]),
        stop=lambda: stop.requested(folder),
        preempted=_will_be_preempted,
    )
    return train(config, launch)


def _will_be_preempted() -> bool:
    """Whether Ray has told this worker that a node of the group is about to be taken away.

    `ray.train.get_preemption_info` says the same, but is a barrier; the loop tells the other ranks
    in a collective operation that each step has anyway.
    """
    return get_train_context().preemption_context.preemption_info is not None


def _report(scores: Mapping[str, float], folder: Path) -> None:
    # Ray does not get the checkpoint itself: it would refuse to restart once an old one is pruned.
    # The workers find the newest complete one in the run folder by themselves.
    ray.train.report({**scores, "checkpoint": str(folder)})
