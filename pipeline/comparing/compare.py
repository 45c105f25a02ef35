"""Comparing checkpoints: a suite of tasks and some checkpoints become tables and pictures."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow
from transformers import AutoConfig

import model  # noqa: F401  registers Nezha with the Auto classes
from pipeline.cluster.calls import Runner, Work, cluster_runner
from pipeline.comparing import comparison, report
from pipeline.comparing.comparison import Comparison, Judged, Subject
from pipeline.corpus.shards.format import MANIFEST, read_manifest
from pipeline.disk import Disk
from pipeline.errors import (
    CheckpointError,
    ConfigError,
    ExportError,
    NezhaError,
    TaskError,
    TrackingError,
)
from pipeline.export.folder import export_checkpoint, moved
from pipeline.feed.batches import split_weights
from pipeline.feed.phases import phases_of
from pipeline.finetuning.checks import check
from pipeline.finetuning.finetune import (
    TRIALS,
    Finetuning,
    examine_with,
    run_trials,
    trials_of,
)
from pipeline.finetuning.trials.on_cluster import check_workers
from pipeline.finetuning.trials.search import grid
from pipeline.hashing import short_hash
from pipeline.paths import RunPaths, storage_folder
from pipeline.progress import Progress, Say
from pipeline.settings.config import Config
from pipeline.settings.finetuning import FinetuneSettings
from pipeline.settings.reading.config_file import load_config
from pipeline.tracking.judged_pictures import draw_curves
from pipeline.tracking.runs import UNREACHABLE, existing_store, tracking_uri
from pipeline.training.checkpoints import files as checkpoints
from pipeline.whole_folder import whole_folder

RANDOM = "random"
REPORT = "comparison"
"""Stem of the report's files: `.md`, `.html`, `.json`."""
CURVE = "curve.png"


def folder_of(config: Config) -> Path:
    """Where reports and the results of trials are kept."""
    return RunPaths.of(config).run / "compare"


def suite_of(config: Config) -> dict[str, FinetuneSettings]:
    """The tasks by name, as they will be fine-tuned.

    Raises ConfigError, with all mistakes, for tasks that can't be compared on.
    """
    compare, tasks = config.compare, dict(config.heads)
    for path in compare.tasks:
        recipe = load_config(path)
        found = dict(recipe.heads)
        if recipe.finetune.task:
            found[recipe.finetune.name or recipe.run.name] = recipe.finetune
        if not found:
            raise ConfigError(f"{path}: this recipe has no task, neither in finetune nor in heads")
        if twice := sorted(set(found) & set(tasks)):
            raise ConfigError(f"{path}: there is already a task {twice[0]}")
        tasks |= found
    mistakes = []
    if not tasks:
        mistakes.append(
            "compare.tasks: name recipe files, or give a suite (--config jobs/configs/suites/…)"
        )
    for name, settings in tasks.items():
        try:
            tasks[name] = settings = _resolved(name, settings, config)
            check(settings.model_copy(update={"name": ""}), f"heads.{name}")
        except ConfigError as error:
            mistakes.append(str(error))
            continue
        if not settings.data.dev:
            mistakes.append(f"heads.{name}.data.dev: needed to choose the best epoch of each trial")
        if settings.search.halving:
            mistakes.append(
                f"heads.{name}.search.halving: leave it out; a comparison has all seeds"
            )
        if settings.checkpoint or settings.from_scratch:
            mistakes.append(
                f"heads.{name}.checkpoint, from_scratch: leave them out; compare.checkpoints says "
                "what to start from"
            )
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return tasks


def _resolved(name: str, settings: FinetuneSettings, config: Config) -> FinetuneSettings:
    """A task with the seeds, limits and data folder of the comparison."""
    compare, data = config.compare, settings.data
    changes: dict[str, Any] = {}
    if compare.data:
        changes = {
            split: _file(Path(compare.data, name), split) for split in ("train", "dev", "test")
        }
        if not changes["train"]:
            raise ConfigError(f"compare.data: there is no file train.* in {compare.data}/{name}")
    if compare.train_limit:
        changes["examples"] = compare.train_limit
    if compare.eval_limit:
        changes["eval_examples"] = compare.eval_limit
    seeds = tuple(range(config.run.seed, config.run.seed + compare.seeds))
    return settings.model_copy(
        update={
            "data": data.model_copy(update=changes),
            "search": settings.search.model_copy(update={"seeds": seeds}),
        }
    )


def _file(folder: Path, split: str) -> str:
    """The file of a split in a task's folder; empty if there is none.

    Raises ConfigError where there are several.
    """
    found = sorted(path for path in folder.glob(f"{split}.*") if path.is_file())
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ConfigError(
            f"compare.data: {folder} has several files for {split}: {names}; keep one"
        )
    return str(found[0]) if found else ""


def plan(config: Config) -> Mapping[str, object]:
    """What a comparison would do. Raises ConfigError for one that can't work."""
    tasks, compare = suite_of(config), config.compare
    if not compare.checkpoints and not compare.run:
        raise ConfigError("compare.checkpoints: name what to compare, or compare.run")
    if compare.checkpoints == (RANDOM,) and not compare.run:
        raise ConfigError("compare.checkpoints: random weights need a checkpoint beside them")
    subjects = [*compare.checkpoints, *map(str, _run_checkpoints(config))]
    trials = sum(len(list(grid(each, config.run.seed))) for each in tasks.values())
    return {
        "compare": ", ".join(subjects),
        "on": ", ".join(tasks),
        "trials": f"{len(subjects) * trials} ({compare.seeds} seeds)",
        "write": folder_of(config),
        "record in": tracking_uri(config),
    }


def run(config: Config, progress: Progress) -> tuple[Comparison, list[Path]]:
    """Fine-tune everything that is not finished, and write the report; returns it and its files.

    Raises:
        ConfigError, TaskError, ExportError, TrackingError: before anything is trained.
    """
    tasks, runner = suite_of(config), cluster_runner(progress, folder_of(config))
    check_workers((f"heads.{name}", each) for name, each in tasks.items())
    folder = folder_of(config)
    subjects = subjects_of(config, runner)
    jobs = [
        Finetuning(
            f"{name} {subject.name}",
            settings,
            subject.export,
            folder,
            config.run.seed,
            subject.from_scratch,
        )
        for name, settings in tasks.items()
        for subject in subjects
    ]
    pairs = [(name, subject) for name in tasks for subject in subjects]
    judged = [
        Judged(name, subject, examined, trials_of(job, examined, folder / TRIALS, with_head=False))
        for (name, subject), job, examined in zip(
            pairs, jobs, examine_with(runner, jobs), strict=True
        )
    ]
    check_examples(judged)
    for each in judged:
        for note in each.examined.notes:
            progress.say(f"{each.task} {each.subject.name}: {note}")
    found = run_trials(runner, [trial for each in judged for trial in each.trials])
    result = comparison.conclude(subjects, judged, found)
    return result, write_report(result, folder)


def check_examples(judged: Sequence[Judged]) -> None:
    """Raise TaskError where checkpoints would answer different examples of a task."""
    first: dict[str, Judged] = {}
    for each in judged:
        other = first.setdefault(each.task, each)
        if each.examined.judged_on != other.examined.judged_on:
            raise TaskError(
                f"{each.task}: {other.subject.name} and {each.subject.name} would be judged on "
                "different examples, because skip_bad leaves out what a vocabulary does not fit "
                "into data.length; raise data.length"
            )


def write_report(result: Comparison, folder: Path) -> list[Path]:
    """Write the report's files; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)  # if every trial failed, nothing has made it
    pictures = []
    if any(len(points) > 1 for points in result.curve().values()):
        draw_curves(result.curve(), folder / CURVE)
        pictures = [CURVE]
    texts = {
        f"{REPORT}.md": report.to_markdown(result),
        f"{REPORT}.html": report.to_html(result, pictures),
        f"{REPORT}.json": report.to_json(result),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, "utf-8")
    return [folder / name for name in [*texts, *pictures]]


def subjects_of(config: Config, runner: Runner) -> list[Subject]:
    """What is compared: the checkpoints that are named, and those of the run.

    Raises:
        ExportError: one is not a usable Hugging Face folder.
        TrackingError: a registered version can't be had.
    """
    named = [each for each in config.compare.checkpoints if each != RANDOM]
    folders = {each: str(_folder(each, config)) for each in named}
    tokens: dict[str, float] = {}
    works, exports = [], {}
    for source in _run_checkpoints(config):
        digest = short_hash(str(sorted(checkpoints.read_hashes(source).items())), 12)
        output = folder_of(config) / "exports" / f"{source.name}-{digest}"
        exports[str(source)] = output
        if not output.exists():
            works.append(Work(source.name, "exports", _export, (source, output)))
    for failed in (each for each in runner(works) if isinstance(each, NezhaError)):
        raise failed
    for name, output in exports.items():
        folders[name] = str(output)
        tokens[name] = tokens_of(Path(name))
    order = [*config.compare.checkpoints, *exports]
    names = short_names(order)
    first = next(iter(folders.values()))
    subjects = []
    for each in order:
        export = first if each == RANDOM else folders[each]
        try:
            network = AutoConfig.from_pretrained(export, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ExportError(f"{each}: not a Hugging Face folder: {error}") from error
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
    manifests = [read_manifest(folder) for folder in folders]
    # Without weights each folder has the share of its samples.
    shares = list(map(float, weights)) or [float(manifest.rows) for manifest in manifests]
    means = [m.tokens / m.rows for m in manifests]
    return sum(map(operator.mul, shares, means)) / sum(shares)


def _run_checkpoints(config: Config) -> list[Path]:
    """The complete checkpoints of `compare.run`, oldest first."""
    if not (name := config.compare.run):
        return []
    run = Path(name) if "/" in name else storage_folder(config.run) / name
    folder = run / "checkpoints"
    found = checkpoints.complete(folder.absolute())
    if not found:
        raise CheckpointError(f"compare.run={name}: {folder} has no complete checkpoint")
    return found


def _export(source: Path, output: Path, say: Say, disk: Disk) -> None:
    disk.call(_export_there, source, output)


def _export_there(source: Path, output: Path) -> None:
    config = checkpoints.read_config(source)
    export_checkpoint(source, Path(moved(RunPaths.of(config).vocab, source, config)), output)


def _folder(name: str, config: Config) -> Path:
    """The Hugging Face folder of a checkpoint that the user named."""
    if ":/" not in name:
        return Path(name)
    store = existing_store(config)
    target = folder_of(config) / "registered" / short_hash(name, 12)
    with whole_folder(target) as folder:
        try:
            got = mlflow.artifacts.download_artifacts(
                artifact_uri=name, dst_path=str(folder), tracking_uri=store
            )
            inside = _network_in(Path(got), name).relative_to(folder)
        except UNREACHABLE as error:
            raise TrackingError(f"{name}: {store} does not have it: {error}") from error
    return target / inside


def _network_in(folder: Path, name: str) -> Path:
    """The Hugging Face folder inside the artifacts of a model. Raises ExportError without one."""
    found = [path.parent for path in folder.rglob("config.json")]
    usable = [path for path in found if list(path.glob("*.safetensors"))]
    if not usable:
        raise ExportError(f"{name}: the registered model holds no Hugging Face folder")
    return min(usable, key=lambda path: len(path.parts))
