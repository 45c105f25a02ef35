"""What the main job would do: facts computed without touching anything."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from pipeline.corpus.samples.vocabulary import read_vocabulary, vocabulary_sha256
from pipeline.corpus.shards import format as shards
from pipeline.corpus.text import sources
from pipeline.errors import ConfigError, CorpusError, ShardError, VocabularyError
from pipeline.paths import RunPaths
from pipeline.settings.config import Config
from pipeline.training import batch_split, engine
from pipeline.training.checkpoints import checkpoint
from pipeline.training.loop import open_feed
from pipeline.training.network import count_parameters, network_config


def check(config: Config) -> None:
    """Refuse at once what could not work, before any stage runs.

    Raises:
        ConfigError: fp16 on a CPU, a batch that can't be split, a network that can't be built.
        CorpusError: inputs that are not there.
        VocabularyError: a vocabulary that is not there or does not fit finished shards.
    """
    corpus, paths = config.corpus, RunPaths.of(config)
    _check_engine(config)
    _split(config)
    if corpus.vocab:
        read_vocabulary(paths.vocab)
    if corpus.inputs:
        sources.list_sources(corpus.inputs, corpus)
        if corpus.heldout:
            sources.list_sources(corpus.heldout, corpus)
    elif not (
        config.demo.enabled or config.train.shards or (paths.shards / shards.MANIFEST).exists()
    ):
        raise CorpusError(
            "nothing to train on: set corpus.inputs to your text, train.shards to prepared "
            "shards, or demo.enabled=true for the sample"
        )
    elif not config.demo.enabled:
        check_data(config)
    network_config(config.model, corpus.vocab_size)


def check_data(config: Config) -> None:
    """Find out before any worker starts what is wrong with the shards.

    Raises:
        ShardError: they, or held-out ones that were asked for, can't be read.
        VocabularyError: the vocabulary, or that of held-out shards or `init_from`, is another one.
    """
    paths = RunPaths.of(config)
    feed = open_feed(config, paths, rank=0, world_size=1)
    wanted = {str(paths.vocab): vocabulary_sha256(paths.vocab)}
    if "://" in config.train.eval_shards:
        raise ShardError("train.eval_shards: held-out shards have to lie in a folder, not at a URL")
    if config.train.eval_shards or (paths.heldout / shards.MANIFEST).exists():
        wanted[str(paths.heldout)] = shards.read_manifest(paths.heldout).vocab_sha256
    if (origin := Path(config.train.init_from, checkpoint.STATE)).exists():
        wanted[str(origin.parent)] = checkpoint.read_state(origin.parent)["vocab_sha256"]
    for name, sha256 in wanted.items():
        if sha256 != feed.vocab_sha256:
            folders = ", ".join(config.train.shards) or paths.shards
            raise VocabularyError(
                f"{name} has another vocabulary than the shards in {folders}; set corpus.vocab to "
                "the one that they were made with, or prepare them again"
            )


def pretrain(config: Config) -> dict[str, object]:
    """The facts that `--dry-run` prints."""
    check(config)
    paths, train = RunPaths.of(config), config.train
    split = _split(config)
    network = network_config(config.model, config.corpus.vocab_size)
    facts: dict[str, object] = {
        "run folder": paths.run,
        "read": "the sample package" if config.demo.enabled else ", ".join(config.corpus.inputs),
        "parameters": f"{count_parameters(network):,}",
        "precision": engine.resolve_precision(train.precision, _device(config)),
        "batch": (
            f"{train.global_batch} samples = {split.world_size} workers × {split.accumulation} "
            f"accumulation steps × {split.micro_batch}"
        ),
        "tokens a step": f"at most {train.global_batch * config.corpus.sequence_length:,}",
        "steps": f"{train.steps:,}, {train.steps * train.global_batch:,} samples",
    }
    if (paths.shards / shards.MANIFEST).exists():
        rows = sum(shard.rows for shard in shards.read_manifest(paths.shards).shards)
        facts["epochs"] = f"{train.steps * train.global_batch / rows:.2f} of {rows:,} samples"
    else:
        facts["shards"] = f"to be made in {paths.shards}"
    if found := checkpoint.newest(paths.checkpoints):
        facts["go on from"] = found
    facts["heads"] = ", ".join(config.heads) or "none"
    return facts


def _split(config: Config) -> batch_split.Split:
    """On this machine; a cluster may have another number of workers."""
    workers = batch_split.choose_workers(config, torch.cuda.device_count(), os.cpu_count() or 1)
    return batch_split.split_for(config, workers)


def _check_engine(config: Config) -> None:
    try:
        engine.check(config, _device(config))
    except ConfigError as error:
        if config.scaling.gpus_per_worker is None:
            hint = (
                "if the cluster has GPUs and this machine has none, set scaling.gpus_per_worker=1"
            )
            raise ConfigError(f"{error}\n{hint}") from None
        raise


def _device(config: Config) -> torch.device:
    gpus = config.scaling.gpus_per_worker
    on_gpu = torch.cuda.is_available() if gpus is None else gpus > 0
    return torch.device("cuda" if on_gpu else "cpu")
