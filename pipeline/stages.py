"""The stages from text to fine-tuned heads: one function each, and all of them in order.

A stage whose result is there and still valid is skipped. The verbs run single stages.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from pipeline import preflight, recording, registering, sample
from pipeline.corpus import planning, prepare
from pipeline.corpus.run.inputs import Inputs, list_inputs
from pipeline.corpus.samples.vocabulary import read_vocabulary
from pipeline.corpus.samples.vocabulary_training import check_own, train_vocabulary
from pipeline.corpus.text.sources import Listing
from pipeline.errors import ConfigError, TrackingError
from pipeline.export import folder as exports
from pipeline.finetuning.checks import check, check_files
from pipeline.finetuning.finetune import FinetuneResult, Finetuning
from pipeline.finetuning.tasks import TASKS
from pipeline.finetuning.trials.groups import check_workers
from pipeline.finetuning.trials.on_cluster import finetune_all
from pipeline.paths import RunPaths
from pipeline.pretraining import pretrain, reference_loss
from pipeline.progress import Progress, Show
from pipeline.settings.config import Config
from pipeline.settings.corpus import CorpusSettings, MaskingSettings
from pipeline.storage import write_whole
from pipeline.tracking import runs as tracking
from pipeline.training.checkpoints import files as checkpoints
from pipeline.training.faults import lock
from pipeline.training.measure import history

HELDOUT_MASKS = MaskingSettings()
"""Held-out masks are BERT's, fixed, whatever masks training uses: 15 % of the tokens, in whole
words. So held-out losses of runs with different training masks can be compared."""


def run_all(config: Config, progress: Progress) -> dict[str, Any]:
    """Run every stage that the settings ask for; returns what `summary.json` holds.

    Raises:
        ConfigError: another command works on the run.
        NezhaError: what a stage raised.
    """
    config = with_sample(config)
    check_heads(config)
    check_workers((f"heads.{name}", head) for name, head in config.heads.items())
    preflight.check_origin(config)
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
        check_preparation(config)
        inputs = list_inputs(config.corpus, *preflight.written_by(config))
        with stage("vocabulary"):
            make_vocabulary(config, inputs.sources, progress.say)
        with stage("prepare"):
            make_shards(config, inputs, progress.say)
    with stage("pretrain"):
        run_id = pretrain(config, progress)
    with stage("export"):
        model_uri = make_export(config, run_id, progress.say)
    summary = _pretraining_summary(config, run_id) | {"model_uri": model_uri}
    if config.heads:
        with stage("heads"):
            summary |= finetune_heads(config, run_id, progress)
    if run_id:
        tracking.record_scores(config, run_id, _figures(summary))
    summary["seconds"] = seconds
    _write(paths.summary, summary)
    return summary


def with_sample(config: Config) -> Config:
    """The settings, with the sample's files where the user named none.

    Raises:
        ConfigError: a head without data, for a task that the sample has no data for.
    """
    if not config.demo.enabled:
        return config
    files = sample.files_in(RunPaths.of(config).sample)
    tasks = {
        "ner": (files.ner_train, files.ner_dev, files.ner_test),
        "classification": (files.sentiment_train, files.sentiment_dev, files.sentiment_test),
    }
    heads = {}
    for name, head in config.heads.items():
        if not head.data.train:
            if head.task not in tasks:
                raise ConfigError(f"heads.{name}.data.train: the sample has no {head.task} data")
            train, dev, test = map(str, tasks[head.task])
            data = head.data.model_copy(update={"train": train, "dev": dev, "test": test})
            head = head.model_copy(update={"data": data})
        heads[name] = head
    corpus = config.corpus
    if not corpus.inputs:
        texts = {"inputs": (str(files.corpus),), "heldout": (str(files.heldout),)}
        corpus = corpus.model_copy(update=texts)
    return config.model_copy(update={"corpus": corpus, "heads": heads})


def check_heads(config: Config) -> None:
    """Raise ConfigError for a head that can't be fine-tuned, before hours of pretraining."""
    for name, head in config.heads.items():
        check(head, f"heads.{name}")
        check_files(head, f"heads.{name}", RunPaths.of(config).sample)


def make_vocabulary(config: Config, sources: Listing, show: Show) -> Path:
    """The given vocabulary, or one that is trained on the inputs."""
    paths = RunPaths.of(config)
    if not config.corpus.vocab:
        train_vocabulary(config.corpus, paths.vocab, sources, show)
    show(f"{len(read_vocabulary(paths.vocab)):,} entries in {paths.vocab}")
    return paths.vocab


def check_preparation(config: Config) -> None:
    """Refuse what `planning.check` refuses, for the inputs and the held-out inputs."""
    paths, corpus = RunPaths.of(config), config.corpus
    vocab = paths.vocab if corpus.vocab else None
    planning.check(corpus, paths.shards, vocab)
    if not vocab:
        check_own(paths.vocab)
    if corpus.heldout:
        if paths.heldout == paths.shards:
            raise ConfigError(
                f"corpus.output and train.eval_shards are the same folder, {paths.shards}; "
                "held-out shards need a folder of their own"
            )
        planning.check(_heldout_settings(corpus), paths.heldout, vocab)


def make_shards(config: Config, inputs: Inputs, show: Show) -> None:
    """Shards of the inputs and, apart, of the held-out inputs."""
    paths, corpus, seed = RunPaths.of(config), config.corpus, config.run.seed
    given = inputs.sources, show
    prepare.prepare(corpus, paths.shards, paths.vocab, seed, *given, heldout=inputs.heldout)
    if inputs.heldout:
        apart = _heldout_settings(corpus)
        prepare.prepare(apart, paths.heldout, paths.vocab, seed, inputs.heldout, show)


def _heldout_settings(corpus: CorpusSettings) -> CorpusSettings:
    """Settings of the held-out corpus; its dropped text has a folder beside that of the inputs."""
    rejected = preflight.heldout_rejected(corpus)
    return corpus.model_copy(update={"masking": HELDOUT_MASKS, "keep_rejected": rejected})


def make_export(config: Config, run_id: str | None, show: Show) -> str:
    """Export the checkpoint with the best held-out loss and register it; returns the model URI.

    An export that is up to date is registered once under each name, alias and store, and again
    where its version was deleted.
    """
    paths = RunPaths.of(config)
    best = checkpoints.best(paths.checkpoints)
    marker = paths.run / "export.json"
    made = {"checkpoint": best.name, "hashes": checkpoints.read_hashes(best)}
    place = {
        "store": tracking.tracking_uri(config) if run_id else "",
        "name": config.tracking.registered_model,
        "alias": config.tracking.alias,
    }
    done = json.loads(marker.read_text("utf-8")) if marker.exists() else {}
    places: list[dict[str, str]] = []
    if {key: done.get(key) for key in made} == made and paths.export.exists():
        show(f"{paths.export} is up to date")
        places = done.get("places", [])
        if place in places and (uri := _registered(config, done["model_uri"], run_id)):
            return uri
    else:
        show(f"{best.name}, which has the best held-out loss, to {paths.export}")
        exports.export_checkpoint(best, paths.vocab, paths.export)
    uri = str(paths.export)
    if run_id and tracking.is_reachable(config):
        uri, note = registering.register_export(config, paths.export, run_id)
        if note:
            show(note)
    elif run_id:
        show(f"{place['store']} does not answer; jobs.export registers the export later")
        place = {}
    places += [place] if place and place not in places else []
    _write(marker, {**made, "places": places, "model_uri": uri})
    return uri


def _registered(config: Config, noted: str, run_id: str | None) -> str | None:
    """Where the export of a run is registered; None if its version was deleted.

    It is the address that was noted where no store tells.
    """
    if not (run_id and config.tracking.registered_model and tracking.is_reachable(config)):
        return noted
    try:
        return registering.known_address(config, RunPaths.of(config).export, run_id)
    except TrackingError:  # registering tells what is wrong
        return None


def finetune_heads(
    config: Config, run_id: str | None, progress: Progress
) -> dict[str, dict[str, float | None]]:
    """Test scores of every head from the export and from random weights; None without a test set.

    All fine-tunings are handed to the cluster at once. The heads from the export are recorded in
    runs below `run_id` and registered.
    """
    paths = RunPaths.of(config)
    cells = [(name, start) for name in config.heads for start in ("pretrained", "scratch")]
    runs = [
        Finetuning(
            f"{name} {start}",
            config.heads[name],
            str(config.heads[name].checkpoint or paths.export),
            paths.heads / f"{name}-{start}",
            config.run.seed,
            from_scratch=start == "scratch",
        )
        for name, start in cells
    ]
    results = finetune_all(runs, lambda name, line: progress.update(line, name))
    scores: dict[str, dict[str, float | None]] = {}
    for (name, start), result in zip(cells, results, strict=True):
        metric = TASKS[config.heads[name].task].metric
        scores.setdefault(f"{name}_{metric}", {})[start] = result.score
    for run, result in zip(runs, results, strict=True):
        if run_id and not run.from_scratch:
            _record_head(config, run_id, run, result, progress.say)
    return scores


def _record_head(
    config: Config, parent: str, run: Finetuning, result: FinetuneResult, show: Show
) -> None:
    """Record a head below a run, and register it, unless that was done."""
    if recording.is_recorded(config, run.output):
        return
    if not tracking.is_reachable(config):
        show(f"MLflow does not answer; the same command registers {run.output.name} later")
        return
    nested = config.tracking.model_copy(update={"parent": parent})
    own = config.model_copy(update={"tracking": nested, "finetune": run.settings, "heads": {}})
    try:
        run_id = recording.start_run(own, run.output.name, run.export)
    except TrackingError as error:  # the head is worth more
        show(str(error))
    else:
        recording.record_head(own, result, run_id, show)


def _pretraining_summary(config: Config, run_id: str | None) -> dict[str, Any]:
    paths = RunPaths.of(config)
    records = history.read(paths.run)
    scores = checkpoints.read_state(checkpoints.best(paths.checkpoints))["heldout"]
    speeds = [record["tokens_per_second"] for record in records if "tokens_per_second" in record]
    return {
        "unigram_loss": reference_loss(config, lambda line: None),
        "heldout_mlm_loss": scores.get("mlm_loss"),
        "heldout_nsp_accuracy": scores.get("nsp_accuracy"),
        "tokens_per_second": median(speeds) if speeds else None,
        "export": str(paths.export),
        "mlflow_uri": tracking.tracking_uri(config),
        "mlflow_run": run_id,
    }


def _figures(summary: dict[str, Any]) -> dict[str, float | None]:
    """The scores of a summary that its MLflow run does not have yet."""
    heads = {
        f"test/{name}_{start}": score
        for name, scores in summary.items()
        if isinstance(scores, dict)
        for start, score in scores.items()
    }
    return {"heldout_unigram_loss": summary["unigram_loss"]} | heads


def _write(path: Path, values: dict[str, Any]) -> None:
    text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    write_whole(str(path), text.encode())
