"""The road from text to fine-tuned heads, stage by stage.

A stage whose result is there and still valid is skipped. The verbs run single stages of it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from pipeline import export as exports
from pipeline import preflight as plans
from pipeline import sample
from pipeline.corpus import prepare
from pipeline.corpus.samples.vocabulary import read_vocabulary
from pipeline.corpus.samples.vocabulary_training import train_vocabulary
from pipeline.corpus.shards.format import MANIFEST
from pipeline.corpus.text.sources import Source, list_sources
from pipeline.errors import ConfigError
from pipeline.feed.batches import heldout
from pipeline.feed.unigram import unigram_loss
from pipeline.finetuning.finetune import finetune
from pipeline.paths import RunPaths
from pipeline.settings.config import Config
from pipeline.settings.finetuning import FinetuneSettings
from pipeline.tracking import pictures, registry
from pipeline.tracking import runs as tracking
from pipeline.tracking.runs import flatten
from pipeline.training.checkpoints import files as checkpoint
from pipeline.training.launch import ray_train as driver
from pipeline.training.measure import history

Show = Callable[[str], None]
HARMLESS = {
    *("train.keep_checkpoints", "train.log_every", "train.checkpoint_every"),
    "train.profile_every",
}
"""Settings of training that no weight depends on."""


def travel(config: Config, show: Show) -> dict[str, Any]:
    """Run every stage that the settings name; returns what `summary.json` says."""
    config = with_sample(config)
    paths = RunPaths.of(config)
    seconds: dict[str, float] = {}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        show(f"── {name}")
        begun = time.monotonic()
        yield
        seconds[name] = round(time.monotonic() - begun, 1)

    if config.demo.enabled:
        with stage("sample"):
            sample.make(paths.sample, config.demo.heldout_share)
    if config.corpus.inputs:
        sources = list_sources(config.corpus.inputs, config.corpus)
        with stage("vocabulary"):
            make_vocabulary(config, sources, show)
        with stage("prepare"):
            make_shards(config, sources, show)
    with stage("pretrain"):
        run_id = pretrain(config, show)
    with stage("export"):
        make_export(config, run_id, show)
    summary = _summary(config, run_id)
    final: dict[str, float | None] = {"unigram_loss": summary["unigram_loss"]}
    for name, head in config.heads.items():
        with stage(f"finetune {name}"):
            scores = finetune_head(config, name, head, show)
        key = f"{name}_{'f1' if head.task in ('ner', 'span') else 'accuracy'}"
        summary[key] = scores
        final |= {f"{key}_{start}": score for start, score in scores.items()}
    tracking.record_scores(config, run_id, final)
    summary["seconds"] = seconds
    _write(paths.summary, summary)
    return summary


def with_sample(config: Config) -> Config:
    """The settings with the sample's files where the user named none.

    Raises:
        ConfigError: a head without data that the sample has none for.
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
        texts = (str(files.corpus),)
        chosen = {"inputs": texts, "heldout": (str(files.heldout),)}
        corpus = corpus.model_copy(update=chosen)
    return config.model_copy(update={"corpus": corpus, "heads": heads})


def make_vocabulary(config: Config, sources: Sequence[Source], show: Show) -> Path:
    """The vocabulary given, or one trained on the inputs."""
    paths = RunPaths.of(config)
    if not config.corpus.vocab:
        train_vocabulary(config.corpus, paths.vocab, sources)
    show(f"vocabulary: {len(read_vocabulary(paths.vocab))} entries in {paths.vocab}")
    return paths.vocab


def make_shards(config: Config, sources: Sequence[Source], show: Show) -> None:
    """Shards of the inputs and of the held-out inputs."""
    paths, corpus, seed = RunPaths.of(config), config.corpus, config.run.seed
    prepare.prepare(corpus, paths.shards, paths.vocab, seed, sources, show)
    if corpus.heldout:
        # Held-out masks are fixed, whatever the training draws.
        fixed = corpus.masking.model_copy(update={"mode": "static"})
        apart = corpus.model_copy(update={"masking": fixed})
        heldout_sources = list_sources(corpus.heldout, corpus)
        prepare.prepare(apart, paths.heldout, paths.vocab, seed, heldout_sources, show)


def pretrain(config: Config, show: Show) -> str:
    """Train to `train.steps`; returns the MLflow run that records it.

    Raises:
        ConfigError: the run is finished, but under other settings.
    """
    plans.check_data(config)
    paths = RunPaths.of(config)
    newest = checkpoint.newest(paths.checkpoints)
    state = checkpoint.read_state(newest) if newest else {}
    if newest:
        finished = state["step"] >= config.train.steps
        _compare_settings(config, newest, finished, show)
        if finished:
            show(f"step {state['step']} is reached: {newest}")
            return state["mlflow_run"]
        show(f"going on from {newest}")
    tags = {"stage": "pretrain"}
    run_id = tracking.start_run(config, config.run.name, tags, state.get("mlflow_run"))
    try:
        driver.fit(config, (tracking.tracking_uri(config), run_id), show)
    except BaseException:
        tracking.finish_run(config, run_id, "FAILED")
        raise
    records, curve = history.read(paths.run), paths.run / "loss_curve.png"
    pictures.draw_curve(records, curve, _unigram(config))
    files, ratios = [paths.run / history.FILE, curve], paths.run / "trust_ratios.png"
    if pictures.draw_trust_ratios(records, ratios):
        files.append(ratios)
    tracking.finish_run(config, run_id, artifacts=files)
    return run_id


def make_export(config: Config, run_id: str | None, show: Show) -> str:
    """Export the checkpoint with the best held-out loss and register it; returns the model URI."""
    paths = RunPaths.of(config)
    best = checkpoint.best(paths.checkpoints)
    marker = paths.run / "export.json"
    wanted = {"checkpoint": best.name, "hashes": checkpoint.read_hashes(best)}
    done = json.loads(marker.read_text("utf-8")) if marker.exists() else {}
    if {key: done.get(key) for key in wanted} == wanted and paths.export.exists():
        return done["model_uri"]
    show(f"best checkpoint: {best}")
    exports.export_checkpoint(best, paths.vocab, paths.export)
    uri = registry.register_export(config, paths.export, run_id) if run_id else str(paths.export)
    _write(marker, {**wanted, "model_uri": uri})
    return uri


def finetune_head(
    config: Config, name: str, head: FinetuneSettings, show: Show
) -> dict[str, float | None]:
    """Test scores of a head from the export and from random weights; None without a test set."""
    paths = RunPaths.of(config)
    scores = {}
    for start in ("pretrained", "scratch"):
        result = finetune(
            head,
            str(head.checkpoint or paths.export),
            paths.heads / name / start,
            config.run.seed,
            from_scratch=start == "scratch",
            progress=show,
        )
        scores[start] = result.score
    return scores


def _compare_settings(config: Config, newest: Path, finished: bool, show: Show) -> None:
    """Settings that shape the weights may change only where a run goes on; the network never."""
    saved = checkpoint.read_config(newest)
    before, now = dict(flatten(saved)), dict(flatten(config))
    changed = {
        key: f"{key}: {before.get(key)} → {value}"
        for key, value in now.items()
        if key.startswith(("model.", "train.", "optim.")) and before.get(key) != value
        if key not in HARMLESS
    }
    network = [line for key, line in changed.items() if key.startswith("model.")]
    if network or (changed and finished):
        raise ConfigError(
            f"{newest} was trained with other settings:\n  "
            + "\n  ".join(network or changed.values())
            + "\nchoose another run.name, or set them back"
            + ("" if network else "; a larger train.steps goes on from there")
        )
    for line in changed.values():
        show(f"changed since {newest.name}: {line}")


def _unigram(config: Config) -> float | None:
    paths = RunPaths.of(config)
    if not (paths.heldout / MANIFEST).exists():
        return None
    samples, micro_batch = config.train.eval_samples, config.train.micro_batch
    return unigram_loss(paths.shards, heldout(str(paths.heldout), micro_batch, samples, 0, 1))


def _summary(config: Config, run_id: str) -> dict[str, Any]:
    paths = RunPaths.of(config)
    records = history.read(paths.run)
    heldout = checkpoint.read_state(checkpoint.best(paths.checkpoints))["heldout"]
    speeds = [record["tokens_per_second"] for record in records if "tokens_per_second" in record]
    return {
        "unigram_loss": _unigram(config),
        "heldout_mlm_loss": heldout.get("mlm_loss"),
        "heldout_nsp_accuracy": heldout.get("nsp_accuracy"),
        "tokens_per_second": median(speeds),
        "export": str(paths.export),
        "model_uri": make_export(config, run_id, lambda _: None),
        "mlflow_uri": tracking.tracking_uri(config),
        "mlflow_run": run_id,
    }


def _write(path: Path, values: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", "utf-8")
    temporary.replace(path)
