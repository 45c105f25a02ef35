"""Held-out scores of checkpoints and exports, also of a run that is still training."""

import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.cluster.calls import Work, cluster_runner
from pipeline.corpus.shards.format import read_manifest
from pipeline.errors import CheckpointError
from pipeline.export import trained_with
from pipeline.feed.opening import heldout_set, open_heldout
from pipeline.files.disk import OWN, Disk, fetch_named
from pipeline.paths import RunPaths
from pipeline.precision import pick_device
from pipeline.progress import Progress, Say
from pipeline.runs import run_in_store
from pipeline.settings.config import Config
from pipeline.tracking import runs as tracking
from pipeline.tracking.metric_sender import MetricSender
from pipeline.tracking.store import tracking_uri
from pipeline.training.checkpoints import files
from pipeline.training.checkpoints.state import load_weights
from pipeline.training.evaluation import evaluate
from pipeline.training.measure.history import progress_line
from pipeline.training.objective import PretrainingObjective
from pipeline.training.start.network import build_network
from pipeline.training.start.origin import origin_of

POLL_SECONDS = 5.0
"""Between two looks for a new checkpoint."""


def subject(config: Config) -> Path:
    """What to score: `train.init_from` if it is set, else the run's best checkpoint.

    A run that has started from `train.init_from` is scored itself.
    """
    given, folder = config.train.init_from, RunPaths.of(config).checkpoints
    try:
        own = files.best(folder)
    except CheckpointError:
        if given:
            return origin_of(config)
        raise
    started_there = files.read_config(own).train.init_from == given
    return own if started_there or not given else origin_of(config)


def score(config: Config, path: Path, disk: Disk = OWN) -> dict[str, float]:
    """Scores of a checkpoint or an export, as `evaluate` returns them.

    It runs in this process, on its GPU if there is one, with the network that the weights belong
    to. `disk` holds the files.

    Raises:
        CheckpointError, VocabularyError: the weights can't be read, or have another vocabulary than
            the held-out samples.
    """
    folder = fetch_named(disk, RunPaths.of(config).heldout)
    train = config.train.model_copy(update={"eval_shards": folder})
    config = config.model_copy(update={"train": train})
    manifest, given = read_manifest(folder), disk.fetch(path)
    own = trained_with.read(given, manifest.vocab_size)
    trained_with.require_same(path, own, own.network, manifest.vocab_sha256)
    network = build_network(own.network, config.run.seed, config.engine.attention)
    load_weights(network, given)
    device = pick_device()
    objective = PretrainingObjective(network, config.train.nsp_weight).to(device)
    return evaluate(objective, open_heldout(config, 0, 1), device)


def score_where_free(config: Config, path: Path, progress: Progress) -> dict[str, float]:
    """`score`, on a GPU of the cluster of RAY_ADDRESS that is free, else on a free CPU of it.

    Without RAY_ADDRESS, in this process.
    """
    if not os.environ.get("RAY_ADDRESS"):
        return score(config, path)
    run = cluster_runner(progress, RunPaths.of(config).run, config.scaling)
    (found,) = run([Work(path.name, "evaluations", _score_there, (config, path), gpus=1.0)])
    if isinstance(found, Exception):
        raise found
    return found


def held_out_scores(config: Config, checkpoint: Path, progress: Progress) -> dict[str, float]:
    """Held-out scores of a checkpoint of the run.

    They are those that training noted, unless other samples are held out now.
    """
    state, now = files.read_state(checkpoint), heldout_set(config)
    if now is None or now == state.get("heldout_set"):
        return state["heldout"]
    progress.say(f"{checkpoint.name} was scored on other held-out samples: it is scored again")
    return score_where_free(config, checkpoint, progress)


def _score_there(config: Config, path: Path, say: Say, disk: Disk) -> dict[str, float]:
    return score(config, path, disk)


def each_checkpoint(config: Config, say: Say) -> Iterator[Path]:
    """The run's complete checkpoints, oldest first, as training writes them, up to the last step's.

    It waits for those that are still to come; the run may be in an object store, and need not have
    begun. A checkpoint that the run deletes before its turn is left out. One that the caller works
    on is not deleted.
    """
    seen, last = {-1}, math.inf
    said = False
    while max(seen) < last:
        run_in_store.fetch(config)
        new = [
            path
            for path in files.complete(RunPaths.of(config).checkpoints)
            if files.step_of(path) not in seen
        ]
        if not new:
            if not said:
                say(f"waiting for checkpoints of {RunPaths.of(config).run}")
            said = True
            time.sleep(POLL_SECONDS)
            continue
        said = False
        seen.add(files.step_of(new[0]))
        with files.in_use(new[0]):
            if (new[0] / files.COMPLETE).exists():
                last = files.read_config(new[0]).train.steps
                yield new[0]


def follow(config: Config, progress: Progress) -> None:
    """Score the run's checkpoints as they appear; each is a line, and a step of MLflow's run."""
    sender = None
    for path in each_checkpoint(config, progress.say):
        scores = score_where_free(config, path, progress)
        step = files.step_of(path)
        record = {"step": step} | {f"heldout_{key}": scores[key] for key in scores}
        progress.say(progress_line(record, files.read_config(path).train.steps))
        run_id = tracking.noted_run(RunPaths.of(config).run)
        if sender is None and run_id:
            uri = tracking_uri(config)
            sender = MetricSender(uri, run_id, system_metrics=False)
        if sender:
            sender.log(step, {f"evaluated/{key}": scores[key] for key in scores})
    if sender:
        sender.close(kept_in="the lines above")
