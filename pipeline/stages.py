"""The stages from text to fine-tuned heads: one function each, and all of them in order.

A stage whose result is there and still valid is skipped. The verbs run single stages.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any, Protocol

from pipeline import preflight, recording, registering, sample
from pipeline.corpus import planning, prepare
from pipeline.corpus.run.inputs import Inputs, list_inputs
from pipeline.corpus.samples.vocabulary import read_vocabulary
from pipeline.corpus.samples.vocabulary_training import check_own, train_vocabulary
from pipeline.corpus.shards.format import MANIFEST, read_manifest
from pipeline.corpus.text.sources import Listing
from pipeline.errors import ConfigError, Interrupted, TrackingError
from pipeline.export import folder as exports
from pipeline.feed import opening
from pipeline.feed.batches import heldout, open_folder, split_weights
from pipeline.feed.unigram import unigram_loss
from pipeline.finetuning.finetune import FinetuneResult, Finetuning, check, check_files
from pipeline.finetuning.tasks import TASKS
from pipeline.finetuning.trials.groups import check_workers
from pipeline.finetuning.trials.on_cluster import finetune_all
from pipeline.paths import RunPaths
from pipeline.runs import report
from pipeline.settings.config import Config
from pipeline.settings.corpus import CorpusSettings, MaskingSettings
from pipeline.storage import write_whole
from pipeline.tracking import pictures
from pipeline.tracking import runs as tracking
from pipeline.tracking.datasets import DataUsed, log_data
from pipeline.tracking.metric_sender import MetricSender
from pipeline.training.checkpoints import files as checkpoints
from pipeline.training.faults import lock
from pipeline.training.launch import ray_train
from pipeline.training.measure import history, step_log
from pipeline.training.resume import changed_settings

Show = Callable[[str], None]
CURVE = "loss_curve.png"
HELDOUT_MASKS = MaskingSettings()
"""Held-out masks are BERT's, fixed, whatever masks training uses: 15 % of the tokens, in whole
words. So held-out losses of runs with different training masks can be compared."""


class Progress(Protocol):
    """Where stages report what they do."""

    def say(self, line: str) -> None:
        """Take a line that stays."""

    def update(self, line: str, subject: str = "") -> None:
        """Take the newest line on a subject; it may replace the previous one."""

    def stage(self, name: str) -> None:
        """Note that a stage begins."""


def run_all(config: Config, progress: Progress) -> dict[str, Any]:
    """Run every stage that the settings ask for; returns what `summary.json` holds.

    Raises:
        ConfigError: another command works on the run.
        NezhaError: what a stage raised.
    """
    config = with_sample(config)
    check_heads(config)
    check_workers((f"heads.{name}", head) for name, head in config.heads.items())
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


def pretrain(config: Config, progress: Progress) -> str | None:
    """Train to `train.steps`; returns the MLflow run that records it, which is closed then.

    The run is None where the training was recorded nowhere, as under torchrun.

    Raises:
        ConfigError: the run is finished, but under other settings.
    """
    preflight.check_data(config)
    opening.check(config, progress.say)
    paths = RunPaths.of(config)
    newest = checkpoints.recover(paths.checkpoints, progress.say)
    state = checkpoints.read_state(newest) if newest else {}
    tags = {"stage": "pretrain"}
    if newest:
        finished = state["step"] >= config.train.steps
        changes = changed_settings(config, newest, finished)
        for change in changes:
            progress.say(f"changed since {newest.name}: {change}")
        if changes:
            tags[f"changed_at_step_{state['step']}"] = "\n".join(changes)
        if finished:
            progress.say(f"step {state['step']} is reached: {newest}")
            # An earlier command may have ended between the last step and this.
            names = (history.FILE, step_log.FILE, "*.png", report.FILE)
            files = [path for name in names for path in paths.run.glob(name)]
            return _record(config, tracking.noted_run(paths.run), files, tags, progress.say)
        progress.say(f"going on from {newest}")
    uri, run_id = tracking.tracking_uri(config), tracking.noted_run(paths.run)
    if tracking.is_reachable(config):
        run_id = tracking.start_run(config, config.run.name, tags, run_id)
        tracking.note_run(paths.run, run_id)
        progress.say(f"MLflow shows the run: {tracking.address(config, run_id)}")
        _log_corpora(config, run_id, progress.say)
    else:
        progress.say(f"{uri} does not answer: training starts, and MLflow gets all at the end")
    try:
        given = (uri, run_id) if run_id else None
        ray_train.fit(config, given, progress.update, progress.say)
    except BaseException as error:
        asked = isinstance(error, Interrupted | KeyboardInterrupt)
        drawings = drawn(lambda: [report.write_report(paths.run)], progress.say)
        if run_id:
            tracking.finish_run(config, run_id, "KILLED" if asked else "FAILED", drawings)
        raise
    reference = reference_loss(config, progress.say)
    files = [paths.run / history.FILE, paths.run / step_log.FILE]
    files += drawn(lambda: _draw(config, reference), progress.say)
    files += drawn(lambda: [report.write_report(paths.run)], progress.say)
    return _record(config, run_id, files, tags, progress.say)


def _log_corpora(config: Config, run_id: str, show: Show) -> None:
    """Tell MLflow what the run is trained and scored on; a store that refuses it is told."""
    paths = RunPaths.of(config)
    folders = [("train", folder) for folder in split_weights(paths.training)[0]]
    if (paths.heldout / MANIFEST).exists():
        folders.append(("heldout", str(paths.heldout)))
    used = [DataUsed(use, at, read_manifest(at).content_sha256) for use, at in folders]
    try:
        log_data(config, run_id, used)
    except TrackingError as error:
        show(str(error))


def drawn(draw: Callable[[], list[Path]], show: Show) -> list[Path]:
    """The files that `draw` makes; none if it fails: whatever it is, the weights are worth more."""
    try:
        return draw()
    except Exception as error:
        show(f"a picture or the report of the run can't be made: {type(error).__name__}: {error}")
        return []


def _record(
    config: Config, run_id: str | None, files: list[Path], tags: dict[str, str], show: Show
) -> str | None:
    """Send MLflow what it missed of a trained run, with files, and end it there; returns its id.

    A run that the store does not know, because it is another store, is made there.
    """
    if not tracking.is_reachable(config):
        show("MLflow does not answer: the run is in its folder; the same command records it")
        return run_id
    try:
        run_id = tracking.start_run(config, config.run.name, tags, run_id)
    except TrackingError as error:  # the trained network is worth more
        show(str(error))
        return None
    tracking.note_run(RunPaths.of(config).run, run_id)
    _log_corpora(config, run_id, show)
    sender = MetricSender(tracking.tracking_uri(config), run_id, system_metrics=False)
    history.send_all(RunPaths.of(config).run, sender)
    sender.close()
    tracking.finish_run(config, run_id, artifacts=files)
    return run_id


def reference_loss(config: Config, show: Show) -> float | None:
    """What token frequencies of the training shards reach on the held-out masks, in nats a token.

    None where there is nothing held out, where training shards lie at a URL, which would have to be
    fetched whole, and where it can't be computed: the figure is a reference, and no run fails for
    the lack of it.
    """
    paths, train = RunPaths.of(config), config.train
    folders = split_weights(train.shards)[0] if train.shards else [str(paths.shards)]
    if not (paths.heldout / MANIFEST).exists() or any("://" in folder for folder in folders):
        return None
    try:
        return _unigram_loss(tuple(folders), paths.heldout, train.micro_batch, train.eval_samples)
    except Exception as error:  # whatever it is, the trained network is worth more
        show(f"the loss of token frequencies alone can't be computed: {error}")
        return None


@cache
def _unigram_loss(folders: tuple[str, ...], held: Path, micro_batch: int, samples: int) -> float:
    """Computed once for the curve and for the summary: it reads the whole corpus."""
    batches = heldout(str(held), micro_batch, samples, 0, 1)
    return unigram_loss(open_folder(*folders), batches)


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


def _draw(config: Config, reference: float | None) -> list[Path]:
    """The pictures of a finished run."""
    folder = RunPaths.of(config).run
    records, curve, ratios = history.read(folder), folder / CURVE, folder / "trust_ratios.png"
    pictures.draw_curve(records, curve, reference)
    return [curve, ratios] if pictures.draw_trust_ratios(records, ratios) else [curve]


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
