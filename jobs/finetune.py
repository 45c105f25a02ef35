"""Fine-tune a head: `python -m jobs.finetune finetune.task=ner finetune.data.train=F …`."""

import shlex
from contextlib import closing
from pathlib import Path

from rich.console import Console
from rich.table import Table

from jobs.command import Verb, main
from jobs.output.progress import ConsoleProgress
from jobs.output.tables import table
from pipeline.errors import ConfigError
from pipeline.finetuning.checks import SETS, check, check_files
from pipeline.finetuning.prediction.head_folder import PREDICTIONS, RESULTS, read_results
from pipeline.finetuning.result import FinetuneResult
from pipeline.finetuning.trials.on_cluster import finetune_all
from pipeline.finetuning.trials.running import Finetuning
from pipeline.finetuning.trials.search import Score, grid
from pipeline.paths import RunPaths
from pipeline.runs.named_model import folder_of
from pipeline.settings.config import Config
from pipeline.stages import recording
from pipeline.tracking import runs as tracking
from pipeline.tracking.store import shown_uri

SHOWN = 30
"""Scores of a set that the table shows; each label has one."""


def plan(config: Config) -> dict[str, object]:
    check(config.finetune)
    check_files(config.finetune, "finetune")
    settings = config.finetune
    trials = len(list(grid(settings, config.run.seed)))
    return {
        "start from": "random weights" if settings.from_scratch else _export(config),
        "train on": settings.data.train,
        "choose the best epoch on": settings.data.dev or "nothing (the last epoch is kept)",
        "score on": settings.data.test or settings.data.dev or "nothing",
        "epochs, batch, learning rate": f"{settings.epochs}, {settings.batch}, {settings.lr:g}",
        "trials": trials,
        "workers of a trial": settings.workers,
        "write": _output(config),
        "record in": shown_uri(config),
    }


def execute(config: Config, console: Console) -> None:
    settings, output = config.finetune, _output(config)
    # A head that is recorded may be up to date: then there is nothing to record.
    recorded = recording.is_recorded(config, output)
    export = str(folder_of(config, _export(config), RunPaths.of(config).run))
    run_id = "" if recorded else recording.start_run(config, output.name, _export(config))
    job = Finetuning(output.name, settings, export, output, config.run.seed)
    with closing(ConsoleProgress(console)) as progress, tracking.end_on_error(config, run_id):
        (result,) = finetune_all([job], progress, config.scaling)
    if not (recorded and (output / recording.RECORDED).exists()):  # a new head has no such file
        recording.record_head(
            config,
            result,
            run_id or recording.start_run(config, output.name, _export(config)),
            console.print,
        )
    if len(result.trials) > 1:
        console.print(_trials_table(result))
    console.print(table(f"{output.name}, in per cent", _summary(result)))
    if (output / PREDICTIONS).exists():
        console.print(f"Predictions of the test examples: {output / PREDICTIONS}")
    console.print(f"{result.seconds} s. Next:")
    model = shlex.quote(f"predict.model={result.folder}")
    console.print(f"  python -m jobs.predict {model} predict.input=FILE")


def _trials_table(result: FinetuneResult) -> Table:
    columns = [f"{name} {result.metric}" for name in SETS]
    shown = Table("lr", "batch", "seed", *columns, title="Trials", title_justify="left")
    for trial in result.trials:
        scores = [trial[name].get(result.metric) for name in SETS]
        cells = ["–" if score is None else f"{100 * score:.1f}" for score in scores]
        if trial["error"]:
            cells = [trial["error"], ""]
        shown.add_row(f"{trial['lr']:g}", str(trial["batch"]), str(trial["seed"]), *cells)
    return shown


def _summary(result: FinetuneResult) -> dict[str, str]:
    """The score over seeds, the baseline, and the scores of the head that is kept."""
    chosen, rows = result.kept, {}
    on = result.scored_on
    if result.score is not None:
        best = [t for t in result.trials if all(t[key] == chosen[key] for key in ("lr", "batch"))]
        shown = Score(result.score, result.deviation)
        rows[f"{on} {result.metric}, mean ± deviation"] = f"{shown} over {len(best)} seed(s)"
        trivial = 100 * result.trivial[on][result.metric]
        rows[f"{on} {result.metric} of trivial answers"] = f"{trivial:.1f}"
    rows["kept head"] = "lr {lr:g}, batch {batch}, seed {seed}: {rule}".format(**chosen)
    for name, scores in (("dev", result.dev), ("test", result.test)):
        chosen_scores = list(scores.items())[:SHOWN]
        rows |= {f"  its {name} {key}": f"{100 * value:.1f}" for key, value in chosen_scores}
        if len(scores) > SHOWN:
            rows[f"  its other {name} scores"] = f"{len(scores) - SHOWN:,}, in {RESULTS}"
    return rows


def _export(config: Config) -> str:
    return config.finetune.checkpoint or str(RunPaths.of(config).export)


def _output(config: Config) -> Path:
    """The folder of the head.

    Raises:
        ConfigError: it holds the head of another task or of other data, which would be lost.
    """
    settings = config.finetune
    name = settings.name or settings.task + ("-scratch" if settings.from_scratch else "")
    folder = RunPaths.of(config).heads / name
    if (folder / RESULTS).exists():
        held = read_results(folder)
        before = held["task"], held.get("data", {}).get("train", "")
        if before != (settings.task, settings.data.train):
            raise ConfigError(
                f"{folder} holds a head for {before[0]}, trained on {before[1] or 'other data'}; "
                "give this one another finetune.name, or remove that folder"
            )
    return folder


VERB = Verb(
    help=(
        "Fine-tune a head on labelled examples (JSONL, CSV, TSV, Parquet, or a published format).\n"
        "The result is a Hugging Face folder under `run.storage`/`run.name`/heads."
    ),
    groups=("run", "tracking", "finetune", "scaling"),
    plan=plan,
    execute=execute,
)

if __name__ == "__main__":
    raise SystemExit(main(VERB))
