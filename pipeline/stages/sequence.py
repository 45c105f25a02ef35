"""All stages from text to fine-tuned heads, in order.

A stage whose result is there and still valid is skipped. The verbs run single stages.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

from pipeline import sample
from pipeline.corpus.run.inputs import list_inputs
from pipeline.errors import TrackingError
from pipeline.feed.opening import training_folders
from pipeline.files.storage import write_json
from pipeline.finetuning.trials.on_cluster import check_workers
from pipeline.paths import RunPaths
from pipeline.progress import Progress, Say
from pipeline.settings.config import Config
from pipeline.stages import exporting, heads, preparing
from pipeline.stages.before import given, preflight
from pipeline.stages.pretraining import pretrain, reference_loss
from pipeline.stages.scoring import held_out_scores
from pipeline.tracking import runs as tracking
from pipeline.tracking.store import shown_uri
from pipeline.training.checkpoints import files as checkpoints
from pipeline.training.faults import lock
from pipeline.training.measure import history


def run_all(config: Config, progress: Progress) -> dict[str, Any]:
    """Run every stage that the settings ask for; returns what `summary.json` holds.

    Raises:
        ConfigError: another command works on the run.
        NezhaError: what a stage raised.
    """
    config = preparing.with_sample(config)
    heads.check_heads(config)
    check_workers(((f"heads.{name}", head) for name, head in config.heads.items()), config.scaling)
    given.check(config)
    if config.corpus.inputs:
        preflight.check_room(config)
    with lock.hold(RunPaths.of(config).run, progress.say):
        return _run_stages(config, progress)


def _run_stages(config: Config, progress: Progress) -> dict[str, Any]:
    paths = RunPaths.of(config)
    seconds: dict[str, float] = {}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        progress.stage(name)
        start_time = time.monotonic()
        yield
        seconds[name] = round(time.monotonic() - start_time, 1)

    if config.demo.enabled:
        with stage("sample"):
            sample.make(paths.sample, config.demo.heldout_share)
    if config.corpus.inputs:
        preparing.check_preparation(config)
        inputs = list_inputs(config.corpus, *preflight.written_by(config))
        preparing.check_trained(config, inputs)
        with stage("vocabulary"):
            preparing.make_vocabulary(config, inputs.sources, progress)
        with stage("prepare"):
            preparing.make_shards(config, inputs, progress, training_folders(config))
    with stage("pretrain"):
        run_id = pretrain(config, progress)
    with stage("export"):
        model_uri = _export(config, run_id, progress.say)
    summary = _pretraining_summary(config, run_id, progress) | {"model_uri": model_uri}
    if config.heads:
        with stage("heads"):
            summary |= heads.finetune_heads(config, run_id, progress)
    if run_id:
        tracking.record_scores(config, run_id, _figures(summary))
    summary["seconds"] = seconds
    write_json(paths.summary, summary)
    return summary


def _export(config: Config, run_id: str | None, say: Say) -> str:
    """`make_export`; heads are fine-tuned also from an export that MLflow refuses to register."""
    try:
        return exporting.make_export(config, run_id, say)
    except TrackingError as error:  # the export itself is saved
        say(str(error))
        return str(RunPaths.of(config).export)


def _pretraining_summary(config: Config, run_id: str | None, progress: Progress) -> dict[str, Any]:
    paths = RunPaths.of(config)
    records = history.read(paths.run, "tokens_per_second")
    scores = held_out_scores(config, checkpoints.best(paths.checkpoints), progress)
    speeds = [record["tokens_per_second"] for record in records]
    return {
        "unigram_loss": reference_loss(config, lambda line: None),
        "heldout_mlm_loss": scores.get("mlm_loss"),
        "heldout_nsp_accuracy": scores.get("nsp_accuracy"),
        "tokens_per_second": median(speeds) if speeds else None,
        "export": str(paths.export),
        "mlflow_uri": shown_uri(config),
        "mlflow_run": run_id,
    }


def _figures(summary: dict[str, Any]) -> dict[str, float | None]:
    """The scores of a summary that its MLflow run does not have yet."""
    head_scores = {
        f"{'dev' if name.endswith(heads.ON_DEV) else 'test'}/{name}_{start}": score
        for name, scores in summary.items()
        if isinstance(scores, dict)
        for start, score in scores.items()
    }
    return {"heldout_unigram_loss": summary["unigram_loss"]} | head_scores
