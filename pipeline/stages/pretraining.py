"""The stage that trains: the workers, the MLflow run that records them, pictures and the report."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

from pipeline.corpus.shards.format import is_corpus, read_manifest
from pipeline.errors import TrackingError
from pipeline.feed import opening
from pipeline.feed.batches import heldout, open_folder
from pipeline.feed.unigram import unigram_loss
from pipeline.feed.weights import split_weights
from pipeline.files.urls import is_url
from pipeline.paths import RunPaths
from pipeline.progress import Progress, Say
from pipeline.runs import report
from pipeline.settings.config import Config
from pipeline.stages.before import preflight
from pipeline.tracking import pictures
from pipeline.tracking import runs as tracking
from pipeline.tracking.datasets import DataUsed, log_data
from pipeline.tracking.metric_sender import MetricSender
from pipeline.tracking.store import is_reachable, shown_uri, tracking_uri
from pipeline.training.checkpoints import files as checkpoints
from pipeline.training.launch import ray_train
from pipeline.training.measure import history, step_log
from pipeline.training.start.resume import changed_settings, is_finished, recover

CURVE = "loss_curve.png"


def pretrain(config: Config, progress: Progress) -> str | None:
    """Train to `train.steps`; returns the MLflow run that records it, which is closed then.

    The run is None where the training was recorded nowhere, as under torchrun.

    Raises:
        ConfigError: the run is finished, but under other settings.
    """
    preflight.check_data(config)
    opening.check(config, progress.say)
    paths = RunPaths.of(config)
    for line in _notes(config):
        progress.say(line)
    newest = recover(config, progress.say)
    state = checkpoints.read_state(newest) if newest else {}
    tags = {"stage": "pretrain"}
    if newest:
        changes = changed_settings(config, newest)
        for change in changes:
            progress.say(f"changed since {newest.name}: {change}")
        if changes:
            tags[f"changed_at_step_{state['step']}"] = "\n".join(changes)
        if is_finished(config, newest):
            progress.say(f"step {state['step']} is reached: {newest}")
            # An earlier command may have ended between the last step and this.
            names = (history.FILE, step_log.FILE, "*.png", report.FILE)
            files = [path for name in names for path in paths.run.glob(name)]
            return _record(config, tracking.noted_run(paths.run), files, tags, progress.say)
        progress.say(f"going on from {newest}")
    uri, run_id = tracking_uri(config), tracking.noted_run(paths.run)
    if is_reachable(config):
        run_id = tracking.start_run(config, config.run.name, tags, run_id, anew=not newest)
        tracking.note_run(paths.run, run_id)
        progress.say(f"MLflow shows the run: {tracking.address(config, run_id)}")
        _log_corpora(config, run_id, progress.say)
    else:
        progress.say(
            f"{shown_uri(config)} does not answer: training starts, and MLflow gets all at the end"
        )

    def draw_report() -> list[Path]:
        return drawn(lambda: [report.write_report(paths.run)], progress.say)

    with tracking.end_on_error(config, run_id, draw_report):
        given = (uri, run_id) if run_id else None
        ray_train.fit(config, given, progress)
    reference = reference_loss(config, progress.say)
    files = [paths.run / history.FILE, paths.run / step_log.FILE]
    files += drawn(lambda: _draw(config, reference), progress.say)
    files += draw_report()
    return _record(config, run_id, files, tags, progress.say)


def _notes(config: Config) -> list[str]:
    """What a user may not expect of the data: samples of another length, nothing held out."""
    paths, lines = RunPaths.of(config), []
    given, _ = split_weights(paths.training)
    length, own = max(read_manifest(each).sequence_length for each in given), config.corpus
    if length != own.sequence_length:
        lines.append(
            f"samples of {', '.join(given)} have up to {length} tokens, and corpus.sequence_length="
            f"{own.sequence_length}: steps that are given in tokens are counted with the latter"
        )
    if not is_corpus(paths.heldout):
        lines.append(
            "no text is held out, so training is not scored, and the newest checkpoint is "
            "exported; corpus.heldout names texts to score on (train.eval_shards: prepared ones)"
        )
    return lines


def _log_corpora(config: Config, run_id: str, say: Say) -> None:
    """Tell MLflow what the run is trained and scored on; a store that refuses it is told."""
    paths = RunPaths.of(config)
    folders = [("train", folder) for folder in opening.training_folders(config)]
    if is_corpus(paths.heldout):
        folders.append(("heldout", paths.heldout))
    used = [DataUsed(use, at, read_manifest(at).content_sha256) for use, at in folders]
    try:
        log_data(config, run_id, used)
    except TrackingError as error:
        say(str(error))


def drawn(draw: Callable[[], list[Path]], say: Say) -> list[Path]:
    """The files that `draw` makes; none if that fails: the weights are saved already."""
    try:
        return draw()
    except Exception as error:
        say(f"a picture or the report of the run can't be made: {type(error).__name__}: {error}")
        return []


def _record(
    config: Config, run_id: str | None, files: list[Path], tags: dict[str, str], say: Say
) -> str | None:
    """Send MLflow what it missed of a trained run, with files, and end it there; returns its id.

    A run that the store does not know, because it is another store, is made there.
    """
    if not is_reachable(config):
        say("MLflow does not answer: the run is in its folder; the same command records it")
        return run_id
    try:
        run_id = tracking.start_run(config, config.run.name, tags, run_id)
    except TrackingError as error:  # the trained network is saved already
        say(str(error))
        return None
    tracking.note_run(RunPaths.of(config).run, run_id)
    _log_corpora(config, run_id, say)
    records = history.each(RunPaths.of(config).run)
    sender = MetricSender(tracking_uri(config), run_id, system_metrics=False, earlier=records)
    sender.close(whole=True)
    tracking.finish_run(config, run_id, artifacts=files)
    return run_id


def reference_loss(config: Config, say: Say) -> float | None:
    """What token frequencies of the training shards reach on the held-out masks, in nats a token.

    None where there is nothing held out, where training shards lie at a URL, which would have to be
    fetched whole, and where it can't be computed: the figure is a reference, and no run fails for
    the lack of it.
    """
    paths, train = RunPaths.of(config), config.train
    folders, _ = split_weights(paths.training)
    if not is_corpus(paths.heldout) or any(is_url(folder) for folder in folders):
        return None
    try:
        return _unigram_loss(tuple(folders), paths.heldout, train.micro_batch, train.eval_samples)
    except Exception as error:  # whatever it is: the trained network is saved already
        say(f"the loss of token frequencies alone can't be computed: {error}")
        return None


@cache
def _unigram_loss(folders: tuple[str, ...], held: str, micro_batch: int, samples: int) -> float:
    """Computed once for the curve and for the summary: it reads the whole corpus."""
    batches = heldout(held, micro_batch, samples, 0, 1)
    return unigram_loss(open_folder(*folders), batches)


def _draw(config: Config, reference: float | None) -> list[Path]:
    """The pictures of a finished run."""
    folder = RunPaths.of(config).run
    curve, ratios = folder / CURVE, folder / "trust_ratios.png"
    pictures.draw_curve(history.read(folder, *pictures.LOSSES), curve, reference)
    last = history.newest(folder, pictures.RATIO) or {}
    found = history.read(folder, *(name for name in last if name.startswith(pictures.RATIO)))
    return [curve, ratios] if pictures.draw_trust_ratios(found, ratios) else [curve]
