"""What a training job would do, and what is wrong with it: facts and refusals, before it starts."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path

import torch

from pipeline.corpus.run.inputs import list_inputs
from pipeline.corpus.samples.vocabulary import read_vocabulary, vocabulary_sha256
from pipeline.corpus.samples.vocabulary_training import note_of
from pipeline.corpus.shards import format as shards
from pipeline.cpu import usable_cpus
from pipeline.errors import CheckpointError, ConfigError, CorpusError, VocabularyError
from pipeline.export import origin as origins
from pipeline.feed.batches import compare_fingerprints, compare_order
from pipeline.feed.opening import open_feed
from pipeline.feed.order import BatchSize
from pipeline.paths import RunPaths
from pipeline.precision import resolve_precision
from pipeline.settings.config import Config
from pipeline.settings.corpus import CorpusSettings
from pipeline.tracking.runs import tracking_uri
from pipeline.training import batch_split, engine, starting_point
from pipeline.training.checkpoints import files as checkpoints
from pipeline.training.deepspeed_config import deepspeed_config
from pipeline.training.network import count_parameters, network_config, vocabulary_size


def written_by(config: Config) -> tuple[tuple[str, ...], str]:
    """Files and folders that preparation writes beside those that `corpus` names; the run folder.

    Both are for `list_inputs`.
    """
    paths = RunPaths.of(config)
    written = (paths.vocab, note_of(paths.vocab), paths.shards, paths.heldout)
    later = chain.from_iterable(paths.later)
    return (*map(str, written), *later, heldout_rejected(config.corpus)), str(paths.run)


def heldout_rejected(corpus: CorpusSettings) -> str:
    """Folder of the dropped text of the held-out inputs; empty if it is not kept."""
    return corpus.keep_rejected and f"{corpus.keep_rejected}-heldout"


def check(config: Config) -> None:
    """Refuse what cannot work, before any stage runs. Finished shards are left to `check_data`.

    Raises:
        ConfigError: fp16 on a CPU, a batch that cannot be split, a network that cannot be built.
        CorpusError: there is no input, or an input does not exist.
        VocabularyError: the vocabulary does not exist.
        TrackingError: MLflow cannot record there.
    """
    corpus, paths = config.corpus, RunPaths.of(config)
    _check_engine(config)
    tracking_uri(config)
    _split(config)
    if corpus.vocab:
        read_vocabulary(paths.vocab)
    if corpus.inputs:
        list_inputs(corpus, *written_by(config), signed=False)
    elif not (
        config.demo.enabled or config.train.shards or (paths.shards / shards.MANIFEST).exists()
    ):
        raise CorpusError(
            "nothing to train on: set corpus.inputs to your text, train.shards to prepared "
            "shards, or demo.enabled=true for the sample"
        )
    network_config(config.model, vocabulary_size(config))


def check_origin(config: Config) -> None:
    """Refuse a `train.init_from` that is not there, before a corpus is prepared.

    It is not part of `check`: of runs that follow each other one may make it for the next.

    Raises:
        CheckpointError: there is no such folder, or it is a run without a complete checkpoint.
    """
    given = config.train.init_from
    if not given or checkpoints.newest(RunPaths.of(config).checkpoints):
        return
    if not checkpoints.origin_of(given).exists():
        raise CheckpointError(
            f"{given}: no such folder; train.init_from names a run, a checkpoint or an export"
        )


def check_data(config: Config) -> None:
    """Refuse finished shards that cannot be trained on, before any worker starts.

    Raises:
        ShardError: the shards, or the held-out ones that were asked for, cannot be read.
        FingerprintError: they, or the settings of their order, are not those of the checkpoint.
        VocabularyError: the vocabulary, that of the held-out shards or that of `init_from` is not
            the one that the shards were made with.
        CheckpointError: `init_from` holds weights of another network.
    """
    paths = RunPaths.of(config)
    feed = open_feed(config, rank=0, world_size=1)
    vocabularies = {str(paths.vocab): vocabulary_sha256(paths.vocab)}
    if config.train.eval_shards or (paths.heldout / shards.MANIFEST).exists():
        vocabularies[str(paths.heldout)] = shards.read_manifest(paths.heldout).vocab_sha256
    for name, sha256 in vocabularies.items():
        if sha256 != feed.vocab_sha256:
            raise VocabularyError(
                f"{name} has another vocabulary than the shards in {', '.join(paths.training)}; "
                "set corpus.vocab to the one that they were made with, or prepare them again"
            )
    found = checkpoints.newest(paths.checkpoints)
    if config.train.init_from and not found:
        path = checkpoints.origin_of(config.train.init_from)
        shape = network_config(config.model, feed.vocab_size)
        if config.train.init_adapt:
            starting_point.compare(path, starting_point.read(path).config, shape)
            return
        origins.compare(path, origins.read_origin(path, feed.vocab_size), shape, feed.vocab_sha256)
        if config.train.init_state == "branch":
            before = checkpoints.read_state(path)
            compare_order(before["fingerprint_fields"], feed.fingerprint_fields)
    if found:
        saved = checkpoints.read_state(found)
        compare_fingerprints(saved["fingerprint_fields"], feed.fingerprint_fields)


def pretrain(config: Config) -> dict[str, object]:
    """What `jobs.pretrain --dry-run` prints.

    Raises:
        NezhaError: as `check`.
    """
    check(config)
    reads = "the sample package" if config.demo.enabled else ", ".join(config.corpus.inputs)
    return {
        "run folder": RunPaths.of(config).run,
        "read": reads or ", ".join(config.train.shards),
        **_training(config),
        "heads": ", ".join(config.heads) or "none",
    }


def train_alone(config: Config) -> dict[str, object]:
    """What `jobs.torchrun --dry-run` prints; everything was prepared before.

    Raises:
        NezhaError: as `check` and `check_data`.
    """
    _check_engine(config)
    check_data(config)
    paths = RunPaths.of(config)
    return {"run folder": paths.run, "read": ", ".join(paths.training), **_training(config)}


def _training(config: Config) -> dict[str, object]:
    paths, train = RunPaths.of(config), config.train
    split = _split(config)
    network = network_config(config.model, vocabulary_size(config))
    precision = resolve_precision(train.precision, _device(config))
    growth = train.first_batch or 0, train.batch_warmup
    ends = [*(phase.after for phase in train.phases), train.steps]
    samples = BatchSize(train.global_batch, *growth).before(ends[0])
    later = sum(
        (end - phase.after) * phase.global_batch
        for phase, end in zip(train.phases, ends[1:], strict=True)
    )
    facts: dict[str, object] = {
        "parameters": f"{count_parameters(network):,}",
        "precision": precision,
        "batch": (
            f"{train.global_batch} samples = {split.world_size} workers × {split.accumulation} "
            f"accumulation steps × {split.micro_batch}"
        ),
        "tokens a step": f"at most {train.global_batch * config.corpus.sequence_length:,}",
        "steps": f"{train.steps:,}, {samples + later:,} samples",
    }
    for phase, folders in zip(train.phases, paths.later, strict=True):
        facts[f"after step {phase.after:,}"] = (
            f"{phase.global_batch} samples of {phase.sequence_length} tokens a step, of "
            + ", ".join(folders)
        )
    if not train.shards and (paths.shards / shards.MANIFEST).exists():
        rows = shards.read_manifest(paths.shards).rows
        facts["epochs"] = f"{samples / rows:.2f} of {rows:,} samples"
    elif not train.shards:
        facts["shards"] = f"to be made in {paths.shards}"
    if found := checkpoints.newest(paths.checkpoints):
        facts["continue from"] = found
    elif train.init_from:
        there = "" if Path(train.init_from).exists() else ", which is not there yet"
        facts["start from"] = f"{train.init_from}{there}"
    facts["DeepSpeed"] = json.dumps(deepspeed_config(config, split, precision))
    return facts


def _split(config: Config) -> batch_split.Split:
    """On this machine; a cluster may choose another number of workers."""
    workers = batch_split.choose_workers(config, torch.cuda.device_count(), usable_cpus())
    return batch_split.split_batch(config.train, workers)


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
