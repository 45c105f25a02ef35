"""What a training job would do, as `--dry-run` prints it."""

import json

from pipeline.corpus.shards import format as shards
from pipeline.feed.phases import phases_of
from pipeline.feed.weights import split_weights
from pipeline.paths import RunPaths
from pipeline.precision import resolve_precision
from pipeline.runs.named_model import is_there
from pipeline.settings.config import Config
from pipeline.stages.before import preflight
from pipeline.training.checkpoints import files as checkpoints
from pipeline.training.deepspeed_config import deepspeed_config
from pipeline.training.start.network import count_parameters, network_config, vocabulary_size


def pretrain(config: Config) -> dict[str, object]:
    """What `jobs.pretrain --dry-run` prints.

    Raises:
        NezhaError: as `preflight.check`.
    """
    preflight.check(config)
    reads = ["the sample package"] if config.demo.enabled else config.corpus.inputs
    given = config.train.shards
    folders = split_weights(given)[0] if given else ()
    named = (f"{text}{_absent(path)}" for text, path in zip(given, folders, strict=True))
    return {
        "run folder": RunPaths.of(config).run,
        "read": ", ".join([*reads, *named]),
        **_training(config),
        "heads": ", ".join(config.heads) or "none",
    }


def train_alone(config: Config) -> dict[str, object]:
    """What `jobs.torchrun --dry-run` prints; everything was prepared before.

    Raises:
        NezhaError: as `preflight.check_data`.
    """
    preflight.check_engine(config)
    preflight.check_data(config)
    paths = RunPaths.of(config)
    return {"run folder": paths.run, "read": ", ".join(paths.training), **_training(config)}


def _training(config: Config) -> dict[str, object]:
    paths, train = RunPaths.of(config), config.train
    split = preflight.split(config)
    network = network_config(config.model, vocabulary_size(config))
    precision = resolve_precision(train.precision, preflight.device(config))
    first, *later = phases_of(config)
    facts: dict[str, object] = {
        "parameters": f"{count_parameters(network):,}",
        "precision": precision,
        "batch": (
            f"{train.global_batch} samples = {split.world_size} workers × {split.accumulation} "
            f"accumulation steps × {split.micro_batch}"
        ),
        "tokens a step": f"at most {train.global_batch * config.corpus.sequence_length:,}",
        "steps": f"{train.steps:,}, {first.samples + sum(p.samples for p in later):,} samples",
    }
    for phase, read in zip(train.phases, later, strict=True):
        facts[f"after step {phase.after:,}"] = (
            f"{phase.global_batch} samples of {phase.sequence_length} tokens a step, of "
            + ", ".join(read.shards)
        )
    if not train.shards and shards.is_corpus(paths.shards):
        rows = shards.read_manifest(paths.shards).rows
        facts["epochs"] = f"{first.samples / rows:.2f} of {rows:,} samples"
    elif not train.shards:
        facts["shards"] = f"to be made in {paths.shards}"
    if found := checkpoints.newest(paths.checkpoints):
        facts["continue from"] = found
    elif train.init_from:
        facts["start from"] = f"{train.init_from}{_absent(train.init_from)}"
    facts["DeepSpeed"] = json.dumps(deepspeed_config(config, split, precision))
    return facts | low_rate(config)


def low_rate(config: Config) -> dict[str, str]:
    """A note where random weights can learn hardly anything, because LAMB hardly moves them.

    In a step it moves each matrix by the learning rate times the norm of the matrix.
    """
    optim, steps = config.optim, config.train.steps
    if optim.name != "lamb" or config.train.init_from or optim.lr * steps >= 1:
        return {}
    return {
        "low rate": f"at optim.lr={optim.lr:g} LAMB moves weights by at most "
        f"{optim.lr * steps:.2g} of their norm in {steps:,} steps: hardly anything is learnt. "
        "Recipes for few steps have 1e-2 (jobs/configs/demo.yaml) and 4e-3 (cpu_hour.yaml)"
    }


def _absent(path: str) -> str:
    """A note that a path of the settings is not there; a run before this one may make it."""
    return "" if is_there(path) else ", which is not there yet"
