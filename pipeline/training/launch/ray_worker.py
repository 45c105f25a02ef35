"""What a worker of Ray Train does: it trains."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
from ray.train.v2._internal.execution.context import get_train_context

from pipeline.cluster.remote_disk import Offer, RemoteDisk, disk_of
from pipeline.corpus.shards.format import read_manifest
from pipeline.errors import ConfigError
from pipeline.feed.checking import NOTE, moved_note
from pipeline.feed.opening import training_folders
from pipeline.feed.weights import split_weights
from pipeline.files.disk import Disk, fetch_named
from pipeline.files.storage import read_note, write_json
from pipeline.files.urls import is_url
from pipeline.paths import RunPaths
from pipeline.settings.config import ACCEPTED, Config
from pipeline.settings.reading.config_file import dump_yaml
from pipeline.training.faults import hang, stop

ASK_SECONDS = 1.0
"""Time between two questions to a remote disk whether the run was asked to stop."""


def run(given: dict[str, Any]) -> dict[str, Any]:
    """What each worker runs: `train`, with the settings and the MLflow run that it is given.

    Raises:
        ConfigError: the shards lie on another node's disk, and are too large to be copied.
    """
    # The controller imports this module too, and does not need what training needs.
    from pipeline.training.loop import train
    from pipeline.training.start.context import Context

    context = ray.train.get_context()
    config = Config.model_validate(given["config"], context=ACCEPTED)
    settings, offer = dump_yaml(config), Offer(*given["offer"])
    # The folder to work in, of a run in an object store, has another name on each node.
    known = str(RunPaths.of(config).run) == offer.folder
    disk = disk_of(offer) if known else RemoteDisk(offer)
    if isinstance(disk, RemoteDisk):
        config = with_copies(config, disk)
    launch = Context(
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        host=ray.util.get_node_ip_address(),
        device=ray.train.torch.get_device(),
        threads=max(1, int(config.scaling.cpus_per_worker)),
        report=_report,
        tracking=given["tracking"] and tuple(given["tracking"]),
        stop=_stop_of(disk, RunPaths.of(config).run),
        preempted=_will_be_preempted,
        disk=disk,
    )
    return train(config, launch, settings)


def with_copies(config: Config, disk: RemoteDisk) -> Config:
    """The settings for a node that does not see the run's folder, with copies of what it reads.

    Raises:
        ConfigError: the shards are larger than the shard cache may be.
    """
    from pipeline.tracking.store import tracking_uri  # MLflow takes seconds to be imported

    hang.take(disk.here)  # of an earlier start; they would explain the next failure
    disk.drop(disk.here / "checkpoints")
    run = config.run.model_copy(update={"storage": str(disk.here.parent), "scratch": ""})
    moved = config.model_copy(update={"run": run})
    paths, folders = RunPaths.of(moved), training_folders(moved)
    local = [Path(folder) for folder in folders if not is_url(folder)]
    local = [each for each in local if each.is_relative_to(disk.here) or not disk.sees(each)]
    size = sum(disk.call(_gigabytes, folder) for folder in local)
    if size > config.train.shard_cache_gigabytes:
        raise ConfigError(
            f"{', '.join(map(str, local))}: {size:.0f} GB of shards lie on the disk of the "
            "command's node alone, and each node would copy them; put them into an object store "
            "(train.shards=s3://…) or on a disk that all nodes share, or raise "
            "train.shard_cache_gigabytes"
        )
    found = {folder: fetch_named(disk, folder) for folder in folders}
    own = {str(disk.there(Path(folder))): copy for folder, copy in found.items()}
    checked = disk.call(read_note, paths.run / NOTE)
    write_json(paths.run / NOTE, moved_note(checked, own))
    held, vocab = fetch_named(disk, paths.heldout), fetch_named(disk, paths.vocab)
    phases = tuple(
        phase.model_copy(update={"shards": _with_folders(shards, found)})
        for phase, shards in zip(config.train.phases, paths.later, strict=True)
    )
    shards = _with_folders(paths.training, found)
    train = config.train.model_copy(
        update={"shards": shards, "phases": phases, "eval_shards": held}
    )
    # The command's node looks up a registered version there, also where the storage is a copy's.
    tracking = config.tracking.model_copy(update={"uri": tracking_uri(config)})
    corpus = config.corpus.model_copy(update={"vocab": vocab})
    return config.model_copy(
        update={"run": run, "train": train, "corpus": corpus, "tracking": tracking}
    )


def _with_folders(shards: Sequence[str], found: Mapping[str, str]) -> tuple[str, ...]:
    """`PATH` or `PATH@WEIGHT` arguments, with other paths."""
    folders, weights = split_weights(shards)
    copies = [found[folder] for folder in folders]
    if not weights:
        return tuple(copies)
    return tuple(f"{copy}@{weight}" for copy, weight in zip(copies, weights, strict=True))


def _gigabytes(folder: Path) -> float:
    return read_manifest(folder).bytes / 1e9


def _stop_of(disk: Disk, run: Path) -> Callable[[], bool]:
    """Whether the run was asked to stop; of a remote disk, a thread asks."""
    if not disk.remote:
        return lambda: stop.requested(run)
    asked = threading.Event()

    def watch() -> None:
        while not asked.is_set():
            with suppress(OSError):  # the command's node may answer the next time
                if disk.call(stop.requested, run):
                    asked.set()
            time.sleep(ASK_SECONDS)

    threading.Thread(target=watch, name="stop", daemon=True).start()
    return asked.is_set


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
