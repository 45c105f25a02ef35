"""The stage that fine-tunes heads from the export, and records and registers them."""

from pipeline.errors import TrackingError
from pipeline.finetuning.checks import check, check_files
from pipeline.finetuning.result import FinetuneResult
from pipeline.finetuning.tasks import TASKS
from pipeline.finetuning.trials.on_cluster import finetune_all
from pipeline.finetuning.trials.running import Finetuning
from pipeline.paths import RunPaths
from pipeline.progress import Progress, Say
from pipeline.runs.named_model import folder_of
from pipeline.settings.config import Config
from pipeline.stages import recording
from pipeline.tracking.store import is_reachable

ON_DEV = "_on_dev"
"""Ends the name of a score of the set that chose the epoch and the learning rate."""


def check_heads(config: Config) -> None:
    """Raise ConfigError for a head that can't be fine-tuned, before hours of pretraining."""
    for name, head in config.heads.items():
        check(head, f"heads.{name}")
        check_files(head, f"heads.{name}", RunPaths.of(config).sample)


def finetune_heads(
    config: Config, run_id: str | None, progress: Progress
) -> dict[str, dict[str, float | None]]:
    """Scores of every head from the export and from random weights; None without a set to score on.

    They are test scores, and `…_on_dev` where test is missing or has no targets. All fine-tunings
    are handed to the cluster at once. The heads from the export are recorded in runs below `run_id`
    and registered.
    """
    paths = RunPaths.of(config)
    named = {name: head.checkpoint or str(paths.export) for name, head in config.heads.items()}
    exports = {name: str(folder_of(config, given, paths.run)) for name, given in named.items()}
    cells = [(name, start) for name in config.heads for start in ("pretrained", "scratch")]
    runs = [
        Finetuning(
            f"{name} {start}",
            config.heads[name].model_copy(update={"from_scratch": start == "scratch"}),
            exports[name],
            paths.heads / f"{name}-{start}",
            config.run.seed,
        )
        for name, start in cells
    ]
    results = finetune_all(runs, progress, config.scaling)
    scores: dict[str, dict[str, float | None]] = {}
    for (name, start), result in zip(cells, results, strict=True):
        metric = TASKS[config.heads[name].task].metric
        where = "" if result.scored_on == "test" else ON_DEV
        scores.setdefault(f"{name}_{metric}{where}", {})[start] = result.score
    for run, result in zip(runs, results, strict=True):
        if run_id and not run.settings.from_scratch:
            _record_head(config, run_id, run, result, progress.say)
    return scores


def _record_head(
    config: Config, parent: str, run: Finetuning, result: FinetuneResult, say: Say
) -> None:
    """Record a head below a run, and register it, unless that was done."""
    nested = config.tracking.model_copy(update={"parent": parent})
    own = config.model_copy(update={"tracking": nested, "finetune": run.settings, "heads": {}})
    try:
        if recording.is_recorded(config, run.output):
            return
        if not is_reachable(config):
            say(f"MLflow does not answer; the same command registers {run.output.name} later")
            return
        run_id = recording.start_run(own, run.output.name, run.export)
    except TrackingError as error:  # the head is saved already
        say(str(error))
    else:
        recording.record_head(own, result, run_id, say)
