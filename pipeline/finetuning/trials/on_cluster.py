"""Fine-tunings on the cluster: each trial is a Ray task, none runs in the driver."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.cluster import ray_cluster, remote_disk
from pipeline.cluster.calls import ANY, cluster_runner, threads_of_a_task
from pipeline.errors import ConfigError
from pipeline.files.urls import is_url
from pipeline.finetuning.finetune import finetune_with
from pipeline.finetuning.result import FinetuneResult
from pipeline.finetuning.trials.halving import halve
from pipeline.finetuning.trials.running import Finetuning, Found
from pipeline.finetuning.trials.trial import Trial
from pipeline.progress import Progress
from pipeline.settings.finetuning import FinetuneSettings
from pipeline.settings.training import ScalingSettings


def finetune_all(
    jobs: Sequence[Finetuning], progress: Progress, scaling: ScalingSettings = ANY
) -> list[FinetuneResult]:
    """Fine-tune on the cluster of this process or a local one.

    Args:
        jobs: the fine-tunings; relative paths are those of this process.
        scaling: what nodes are waited for.

    Returns:
        One result for each job, in the same order.

    Raises:
        NezhaError: as `finetune_with`.
    """

    def halve_here(trials: Sequence[Trial], metric: str) -> Found:
        ray_cluster.connect()
        ray_cluster.bring(1, trials[0].settings.gpus, scaling, progress.say)
        threads = threads_of_a_task(len(trials), ray_cluster.cpus_by_node())
        with remote_disk.offered(folder) as offer:
            return halve(trials, metric, threads, progress, offer)

    check_workers(((f"{job.name}: finetune", job.settings) for job in jobs), scaling)
    given = [_with_absolute_paths(job) for job in jobs]
    parents = [str(job.output.parent) for job in given] or [os.getcwd()]
    folder = Path(os.path.commonpath(parents))
    return finetune_with(cluster_runner(progress, folder, scaling), given, progress, halve_here)


def check_workers(
    settings: Iterable[tuple[str, FinetuneSettings]], scaling: ScalingSettings
) -> None:
    """Raise ConfigError where the cluster can't hold the workers of a trial, now or later.

    `settings` of fine-tunings stand behind their names, which the message tells.
    """
    for name, each in settings:
        if each.workers == 1 or scaling.wait_seconds:
            continue
        ray_cluster.connect()
        gpus = ray_cluster.gpus_of_a_task(each.gpus)
        bundle = ray_cluster.bundle_of(1.0, gpus)
        lacking = ray_cluster.lacking(each.workers, bundle)
        if lacking:
            raise ConfigError(
                f"{name}.workers={each.workers}: needs {lacking}; lower it, or add nodes (on a "
                "cluster that starts nodes by itself, set scaling.wait_seconds)"
            )


def _with_absolute_paths(job: Finetuning) -> Finetuning:
    """Workers have working directories of their own. The settings make their paths absolute."""
    export = job.export if is_url(job.export) else os.path.abspath(job.export)
    return job._replace(export=export, output=job.output.absolute())
