"""Fine-tunes checkpoints on a suite of tasks, and writes a report that compares them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.cluster.calls import cluster_runner
from pipeline.comparing import comparison, report
from pipeline.comparing.comparison import Comparison, Judged
from pipeline.comparing.subjects import RANDOM, run_checkpoints, subjects_of
from pipeline.comparing.suite import suite_of
from pipeline.errors import ConfigError, TaskError
from pipeline.files.storage import write_whole
from pipeline.finetuning.finetune import TRIALS, examine_with
from pipeline.finetuning.trials.on_cluster import check_workers
from pipeline.finetuning.trials.running import Finetuning, run_trials, trials_of
from pipeline.finetuning.trials.search import grid
from pipeline.paths import RunPaths
from pipeline.progress import Progress
from pipeline.settings.config import Config
from pipeline.tracking.judged_pictures import draw_curves
from pipeline.tracking.store import shown_uri

REPORT = "comparison"
"""Stem of the report's files: `.md`, `.html`, `.json`."""
CURVE = "curve.png"


def comparison_folder(config: Config) -> Path:
    """Where reports and the results of trials are kept."""
    return RunPaths.of(config).run / "compare"


def plan(config: Config) -> Mapping[str, object]:
    """What a comparison would do. Raises ConfigError for one that can't work."""
    tasks, compare = suite_of(config), config.compare
    if not compare.checkpoints and not compare.run:
        raise ConfigError("compare.checkpoints: name what to compare, or compare.run")
    if compare.checkpoints == (RANDOM,) and not compare.run:
        raise ConfigError("compare.checkpoints: random weights need a checkpoint beside them")
    subjects = [*compare.checkpoints, *map(str, run_checkpoints(config, comparison_folder(config)))]
    trials = sum(len(list(grid(each, config.run.seed))) for each in tasks.values())
    return {
        "compare": ", ".join(subjects),
        "on": ", ".join(tasks),
        "trials": f"{len(subjects) * trials} ({compare.seeds} seeds)",
        "write": comparison_folder(config),
        "record in": shown_uri(config),
    }


def run(config: Config, progress: Progress) -> tuple[Comparison, list[Path]]:
    """Fine-tune everything that is not finished, and write the report; returns it and its files.

    Raises:
        ConfigError, TaskError, ExportError, TrackingError: before anything is trained.
    """
    folder = comparison_folder(config)
    tasks, runner = suite_of(config), cluster_runner(progress, folder, config.scaling)
    check_workers(((f"heads.{name}", each) for name, each in tasks.items()), config.scaling)
    subjects = subjects_of(config, runner, folder)
    pairs = [(name, subject) for name in tasks for subject in subjects]
    jobs = [
        Finetuning(
            f"{name} {subject.name}",
            tasks[name].model_copy(update={"from_scratch": subject.from_scratch}),
            subject.export,
            folder,
            config.run.seed,
        )
        for name, subject in pairs
    ]
    found = examine_with(runner, jobs)
    judged = [
        Judged(name, subject, examined, trials_of(job, examined, folder / TRIALS, with_head=False))
        for (name, subject), job, examined in zip(pairs, jobs, found, strict=True)
    ]
    check_examples(judged)
    for each in judged:
        for note in each.examined.notes:
            progress.say(f"{each.task} {each.subject.name}: {note}")
    results = run_trials(runner, [trial for each in judged for trial in each.trials])
    result = comparison.conclude(subjects, judged, results)
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
        write_whole(folder / name, text.encode())
    return [folder / name for name in [*texts, *pictures]]
