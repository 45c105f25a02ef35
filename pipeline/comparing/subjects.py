"""The checkpoints of a comparison, as Hugging Face folders."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.cluster.calls import Runner, Work
from pipeline.comparing.comparison import Subject
from pipeline.corpus.shards.format import MANIFEST, read_manifest
from pipeline.errors import CheckpointError, NezhaError
from pipeline.export.folder import export_checkpoint, moved
from pipeline.feed.phases import phases_of
from pipeline.feed.weights import mean_length, split_weights
from pipeline.files.disk import Disk
from pipeline.files.hashing import short_hash
from pipeline.finetuning.loading import load_config
from pipeline.paths import RunPaths
from pipeline.progress import Say
from pipeline.runs.named_model import folder_of
from pipeline.settings.config import Config
from pipeline.training.checkpoints import files as checkpoints

RANDOM = "random"
"""Names random weights among the checkpoints."""


def subjects_of(config: Config, runner: Runner, folder: Path) -> list[Subject]:
    """What is compared: the checkpoints that are named, and those of the run.

    `folder` takes their exports, and copies of what is named by URL or registered version.

    Raises:
        ExportError: one is not a usable Hugging Face folder.
        TrackingError: a registered version can't be had.
    """
    named = [each for each in config.compare.checkpoints if each != RANDOM]
    folders = {each: str(folder_of(config, each, folder)) for each in named}
    exports = {each: _place_of_export(each, folder) for each in run_checkpoints(config, folder)}
    works = [
        Work(source.name, "exports", _export, (source, output))
        for source, output in exports.items()
        if not output.exists()
    ]
    for failed in (each for each in runner(works) if isinstance(each, NezhaError)):
        raise failed
    folders |= {str(source): str(output) for source, output in exports.items()}
    tokens = {str(source): tokens_of(source) for source in exports}
    order = [*config.compare.checkpoints, *map(str, exports)]
    names = short_names(order)
    first = next(iter(folders.values()))
    subjects = []
    for each in order:
        export = first if each == RANDOM else folders[each]
        network = load_config(export)
        size = network.num_hidden_layers, network.hidden_size
        seen = tokens.get(each, 0.0 if each == RANDOM and tokens else None)
        subjects.append(Subject(names[each], export, each == RANDOM, *size, seen))
    return subjects


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """The shortest ends of the paths that differ; of an `export` or a number with what is above.

    `random` keeps its name: a folder of that name gets the one above it too.
    """
    names = {}
    for path in paths:
        parts = path.rstrip("/").split("/")
        others = [other.rstrip("/").split("/") for other in paths if other != path]
        says_little = parts[-1] == "export" or parts[-1].isdecimal()
        shortest = 2 if says_little and len(parts) > 1 else 1
        length = next(
            (
                n
                for n in range(shortest, len(parts))
                if all(other[-n:] != parts[-n:] for other in others)
            ),
            len(parts),
        )
        names[path] = "/".join(parts[-length:])
    return names


def tokens_of(checkpoint: Path) -> float:
    """Tokens that a checkpoint was trained on: the samples of each phase, at their mean length."""
    config, tokens = checkpoints.read_config(checkpoint), 0.0
    for phase in phases_of(config, checkpoints.read_state(checkpoint)["step"]):
        folders, weights = split_weights(phase.shards)
        there = [moved(folder, checkpoint, config) for folder in folders]
        tokens += phase.samples * _mean_length(there, weights, phase.sequence_length)
    return tokens


def _mean_length(folders: Sequence[str], weights: Sequence[str], limit: int) -> float:
    """Mean tokens of a sample of these shards; their limit where the manifests are not there."""
    if not all(Path(folder, MANIFEST).exists() for folder in folders):
        return float(limit)
    return mean_length([read_manifest(folder) for folder in folders], weights)


def run_checkpoints(config: Config, kept_in: Path) -> list[Path]:
    """The complete checkpoints of `compare.run`, oldest first; of a URL its copy in a folder."""
    if not (name := config.compare.run):
        return []
    run = folder_of(config, name if "/" in name else f"{config.run.storage}/{name}", kept_in)
    folder = run / "checkpoints"
    found = checkpoints.complete(folder.absolute())
    if not found:
        raise CheckpointError(f"compare.run={name}: {folder} has no complete checkpoint")
    return found


def _place_of_export(source: Path, folder: Path) -> Path:
    """The folder for the export of a checkpoint, which is named after what the checkpoint holds."""
    digest = short_hash(str(sorted(checkpoints.read_hashes(source).items())), 12)
    return folder / "exports" / f"{source.name}-{digest}"


def _export(source: Path, output: Path, say: Say, disk: Disk) -> None:
    disk.call(_export_there, source, output)


def _export_there(source: Path, output: Path) -> None:
    config = checkpoints.read_config(source)
    export_checkpoint(source, moved(RunPaths.of(config).vocab, source, config), output)
