"""Run all stages, from text to heads: `python -m jobs.pretrain --config F [a.b=c …]`."""

from contextlib import closing

from rich.console import Console

from jobs.command import Verb, main
from jobs.output.learnt import score_rows, show_learnt
from jobs.output.pretraining import next_commands, todo
from jobs.output.progress import ConsoleProgress
from jobs.output.tables import table
from pipeline.paths import RunPaths
from pipeline.settings.config import Config
from pipeline.stages import heads, preparing, sequence
from pipeline.stages.before import dry_run


def plan(config: Config) -> dict[str, object]:
    """What the run would do; refuses what can't work."""
    heads.check_heads(preparing.with_sample(config))
    return dry_run.pretrain(config)


def execute(config: Config, console: Console) -> None:
    console.print(table(f"Run {config.run.name} will (finished stages are skipped)", todo(config)))
    with closing(ConsoleProgress(console)) as progress:
        summary = sequence.run_all(config, progress)
    show_learnt(config, console)
    seconds = summary.pop("seconds")
    if scores := score_rows(summary):
        console.print(table("Scores", scores))
    console.print(table("Seconds by stage", seconds | {"all": round(sum(seconds.values()), 1)}))
    facts = {name: summary[name] for name in ("export", "model_uri", "mlflow_uri", "mlflow_run")}
    if summary["tokens_per_second"]:  # a run of few steps may not have measured it
        facts["tokens a second"] = f"{summary['tokens_per_second']:,.0f}"
    console.print(table("Results", facts | {"summary": RunPaths.of(config).summary}))
    console.print("Next:")
    for command in next_commands(config, summary["mlflow_run"]):
        console.print(f"  {command}")


VERB = Verb(
    help=(
        "Run all stages: sample or own corpus, vocabulary, shards, pretraining on Ray Train and\n"
        "DeepSpeed, export, registry, heads. Stages whose results are there and still valid are\n"
        "skipped; an interrupted run goes on from its newest checkpoint."
    ),
    groups=(
        *("run", "demo", "corpus", "model", "train", "optim", "engine", "scaling", "faults"),
        *("tracking", "heads"),
    ),
    plan=plan,
    execute=execute,
)

if __name__ == "__main__":
    raise SystemExit(main(VERB))
