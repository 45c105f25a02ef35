"""The stages before pretraining: sample, vocabulary and shards."""

from collections.abc import Sequence
from shlex import quote

from pipeline import sample
from pipeline.corpus import planning, prepare
from pipeline.corpus.run.inputs import Inputs
from pipeline.corpus.samples.vocabulary import read_vocabulary
from pipeline.corpus.samples.vocabulary_training import check_own, is_trained, train_vocabulary
from pipeline.corpus.shards import format as shards
from pipeline.corpus.shards.format import Manifest
from pipeline.corpus.text.sources import Listing
from pipeline.errors import ConfigError
from pipeline.paths import RunPaths
from pipeline.progress import Progress
from pipeline.settings.config import Config
from pipeline.settings.corpus import CorpusSettings, MaskingSettings
from pipeline.stages.before import given, preflight
from pipeline.training.checkpoints import files as checkpoints

HELDOUT_MASKS = MaskingSettings()
"""Held-out masks are BERT's, fixed, whatever masks training uses: 15 % of the tokens, in whole
words. So held-out losses of runs with different training masks can be compared."""


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


def check_preparation(config: Config) -> None:
    """Refuse what `planning.check` refuses, for the inputs and the held-out inputs."""
    paths, corpus = RunPaths.of(config), config.corpus
    vocab = paths.vocab if corpus.vocab else None
    for settings, folder in _corpora(config):
        planning.check(settings, folder, vocab)
    if not vocab:
        check_own(paths.vocab)
    if corpus.heldout:
        if paths.heldout == paths.shards:
            raise ConfigError(
                f"corpus.output and train.eval_shards are the same folder, {paths.shards}; "
                "held-out shards need a folder of their own"
            )
        planning.check(_heldout_settings(corpus), paths.heldout, vocab)


def check_trained(config: Config, inputs: Inputs) -> None:
    """Refuse to replace shards that the run was trained on: it could not go on with others.

    Args:
        inputs: the signed inputs.

    Raises:
        ConfigError: the settings or the texts are not those of these shards.
    """
    paths, corpus, seed = RunPaths.of(config), config.corpus, config.run.seed
    if not (newest := checkpoints.newest(paths.checkpoints)):
        return
    trained = checkpoints.read_state(newest)["fingerprint_fields"]
    kept = bool(corpus.vocab) or is_trained(corpus, paths.vocab, inputs.sources)
    for settings, folder in _corpora(config):
        if not shards.is_corpus(folder):
            continue
        made = shards.read_manifest(folder)
        if made.content_sha256 not in trained["corpora"]:
            continue
        now = planning.plan(settings, paths.vocab, seed, inputs) if kept else None
        if now and now.fingerprint == made.fingerprint:
            continue
        changes = _changes(settings, made, now and now.vocab_sha256)
        if seed != trained["seed"]:
            changes.append(f"run.seed: {trained['seed']} → {seed}")
        reason = "settings:\n  " + "\n  ".join(changes) if changes else "texts or packages"
        raise ConfigError(
            f"{folder}: {newest.name} of the run was trained on these shards, and they would be "
            f"replaced, because there are other {reason}\nset them back, or choose another "
            f"run.name; corpus.inputs=[] corpus.heldout=[] {quote(f'train.shards=[{folder}]')} "
            "goes on with the shards that are there"
        )


def _changes(settings: CorpusSettings, made: Manifest, vocab_sha256: str | None) -> list[str]:
    """Settings that shards were not made with, as lines to show.

    Args:
        vocab_sha256: None if the vocabulary is still to be trained.
    """
    now = given.content(settings)
    if settings.masking.mode == "dynamic":  # the other settings of masks change no shard
        now = {key: now[key] for key in now if key == "masking.mode" or "masking" not in key}
    if vocab_sha256 != made.vocab_sha256:
        now |= {"vocab": settings.vocab, "vocab_size": settings.vocab_size}
    before = given.flat(made.settings)
    return [
        f"corpus.{key}: {before[key]} → {value}"
        for key, value in now.items()
        if before.get(key, value) != value
    ]


def make_vocabulary(config: Config, sources: Listing, progress: Progress) -> str:
    """The given vocabulary, or one that is trained on the inputs."""
    paths = RunPaths.of(config)
    if not config.corpus.vocab:
        train_vocabulary(config.corpus, paths.vocab, sources, progress)
    progress.say(f"{len(read_vocabulary(paths.vocab)):,} entries in {paths.vocab}")
    return paths.vocab


def make_shards(
    config: Config, inputs: Inputs, progress: Progress, wanted: Sequence[str] | None = None
) -> None:
    """Shards of the inputs, for each phase of the training, and of the held-out inputs.

    Args:
        wanted: the folders that training reads: shards of the inputs that go elsewhere are not
            made. None: all are made.
    """
    paths, corpus, seed = RunPaths.of(config), config.corpus, config.run.seed
    if inputs.heldout:  # first, as it is small and may be found unusable
        apart = _heldout_settings(corpus)
        prepare.prepare(apart, paths.heldout, paths.vocab, seed, Inputs(inputs.heldout), progress)
    for settings, folder in _corpora(config):
        if wanted is None or folder in wanted:
            prepare.prepare(settings, folder, paths.vocab, seed, inputs, progress)
        else:
            progress.say(
                f"{folder}: not made, because train.shards names other folders to train on; add "
                "this one to it, or leave train.shards out, to train on corpus.inputs"
            )


def _corpora(config: Config) -> list[tuple[CorpusSettings, str]]:
    """Settings and folder of each corpus that is made from the inputs: one for each length.

    Dropped text is kept once.
    """
    paths, corpus = RunPaths.of(config), config.corpus
    found = {paths.shards: corpus}
    for phase, folders in zip(config.train.phases, paths.later, strict=True):
        if not phase.shards:
            changed = {"sequence_length": phase.sequence_length, "keep_rejected": ""}
            found[folders[0]] = corpus.model_copy(update=changed)
    return [(settings, folder) for folder, settings in found.items()]


def _heldout_settings(corpus: CorpusSettings) -> CorpusSettings:
    """Settings of the held-out corpus; its dropped text has a folder beside that of the inputs."""
    rejected = preflight.heldout_rejected(corpus)
    return corpus.model_copy(update={"masking": HELDOUT_MASKS, "keep_rejected": rejected})
