"""What is wrong with a training job is refused before it starts."""

import os
from itertools import chain

import torch

from pipeline.cluster import ray_cluster
from pipeline.corpus.run.inputs import list_inputs
from pipeline.corpus.samples.vocabulary import read_vocabulary, vocabulary_sha256
from pipeline.corpus.samples.vocabulary_training import note_of
from pipeline.corpus.shards import format as shards
from pipeline.cpu import usable_cpus
from pipeline.errors import ConfigError, CorpusError, VocabularyError
from pipeline.feed.fingerprints import require_same_data, require_same_order
from pipeline.feed.opening import open_feed, training_folders
from pipeline.paths import RunPaths
from pipeline.settings.config import Config
from pipeline.settings.corpus import CorpusSettings
from pipeline.stages.before import given
from pipeline.tracking.store import tracking_uri
from pipeline.training import batch_split, engine
from pipeline.training.checkpoints import files as checkpoints
from pipeline.training.start.network import network_config, vocabulary_size
from pipeline.training.start.origin import origin_of


def written_by(config: Config) -> tuple[tuple[str, ...], str]:
    """Files and folders that preparation writes beside those that `corpus` names; the run folder.

    Both are for `list_inputs`.
    """
    paths = RunPaths.of(config)
    written = (paths.vocab, note_of(paths.vocab), paths.shards, paths.heldout)
    later = chain.from_iterable(paths.later)
    return (*written, *later, heldout_rejected(config.corpus)), str(paths.run)


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
    check_engine(config)
    tracking_uri(config)
    split(config)
    if corpus.vocab:
        read_vocabulary(paths.vocab)
    if corpus.inputs:
        list_inputs(corpus, *written_by(config), signed=False)
    elif not (config.demo.enabled or config.train.shards or shards.is_corpus(paths.shards)):
        raise CorpusError(
            "nothing to train on: set corpus.inputs to your text, train.shards to prepared "
            "shards, or demo.enabled=true for the sample"
        )
    network_config(config.model, vocabulary_size(config))
    if corpus.inputs or config.demo.enabled:
        own = [phase.sequence_length for phase in config.train.phases if not phase.shards]
        given.check_readable(config, max([corpus.sequence_length, *own]), corpus.pairs.task)


def check_room(config: Config) -> None:
    """Refuse more workers than the cluster, or this machine, has room for.

    Where nodes come when they are needed (`scaling.wait_seconds`), training asks for them.

    Raises:
        ConfigError: too few CPUs or GPUs.
    """
    scaling = config.scaling
    if scaling.wait_seconds:
        return
    have = {"CPU": usable_cpus(), "GPU": torch.cuda.device_count()}
    if os.environ.get("RAY_ADDRESS"):
        ray_cluster.connect()
        have = {name: ray_cluster.count(name) for name in have}
    most = batch_split.choose_workers(config, have["GPU"], have["CPU"])
    gpus = bool(have["GPU"]) if scaling.gpus_per_worker is None else scaling.gpus_per_worker
    bundle = ray_cluster.bundle_of(scaling.cpus_per_worker, float(gpus))
    nodes = () if os.environ.get("RAY_ADDRESS") else (have,)
    ray_cluster.require(scaling.min_workers or most, bundle, nodes)


def check_data(config: Config) -> None:
    """Refuse finished shards that cannot be trained on, before any worker starts.

    Raises:
        ShardError: the shards, or the held-out ones that were asked for, cannot be read.
        FingerprintError: they, or the settings of their order, are not those of the checkpoint.
        VocabularyError: the vocabulary, that of the held-out shards or that of `init_from` is not
            the one that the shards were made with.
        CheckpointError: `init_from` holds weights of another network, or no state that is wanted.
        ConfigError: the network cannot read the samples; settings of `corpus` have no effect,
            because the shards were made with others.
    """
    paths = RunPaths.of(config)
    manifests = {folder: shards.read_manifest(folder) for folder in training_folders(config)}
    given.check_samples(config, manifests.values())
    given.check_settings(config, manifests)
    feed = open_feed(config, rank=0, world_size=1)
    vocabularies = {paths.vocab: vocabulary_sha256(paths.vocab)}
    if config.train.eval_shards or shards.is_corpus(paths.heldout):
        vocabularies[paths.heldout] = shards.read_manifest(paths.heldout).vocab_sha256
    for name, sha256 in vocabularies.items():
        if sha256 != feed.vocab_sha256:
            raise VocabularyError(
                f"{name} has another vocabulary than the shards in {', '.join(paths.training)}; "
                "set corpus.vocab to the one that they were made with, or prepare them again"
            )
    found = checkpoints.newest(paths.checkpoints)
    if config.train.init_from and not found:
        given.check_start(config, feed.vocab_size, feed.vocab_sha256)
        if config.train.init_state == "branch":
            before = checkpoints.read_state(origin_of(config))
            require_same_order(before["fingerprint_fields"], feed.fingerprint_fields)
    if found:
        saved = checkpoints.read_state(found)
        require_same_data(saved["fingerprint_fields"], feed.fingerprint_fields)


def split(config: Config) -> batch_split.Split:
    """How this machine splits a batch; a cluster may have another number of workers."""
    workers = batch_split.choose_workers(config, torch.cuda.device_count(), usable_cpus())
    return batch_split.split_batch(config.train, workers)


def check_engine(config: Config) -> None:
    """Raise ConfigError for settings that cannot work on the device that training will have."""
    try:
        engine.check(config, device(config))
    except ConfigError as error:
        if config.scaling.gpus_per_worker is None:
            hint = (
                "if the cluster has GPUs and this machine has none, set scaling.gpus_per_worker=1"
            )
            raise ConfigError(f"{error}\n{hint}") from None
        raise


def device(config: Config) -> torch.device:
    """The kind of device that the settings ask for, by default that of this machine."""
    gpus = config.scaling.gpus_per_worker
    on_gpu = torch.cuda.is_available() if gpus is None else gpus > 0
    return torch.device("cuda" if on_gpu else "cpu")
