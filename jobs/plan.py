"""Plan a run before money is spent: `python -m jobs.plan --config F [a.b=c …]`."""

from rich.console import Console

from jobs.command import Verb, main
from jobs.output.tables import table
from pipeline.settings.config import Config
from pipeline.sizing import plan_table
from pipeline.sizing.plan import make


def plan(config: Config) -> dict[str, object]:
    speed_of = config.plan.device or "a short measurement on one worker"
    return {"plan": config.run.name, "with the speed of": speed_of}


def execute(config: Config, console: Console) -> None:
    if happened := plan_table.compare(config):
        console.print(table(f"Run {config.run.name}, against its plan", happened))
        return
    made = make(config, console.print)
    console.print(table(f"Plan of run {config.run.name}", plan_table.rows(config, made)))
    if plan_table.save(config, made):
        console.print("After the run, the same command holds the plan against what happened.")


VERB = Verb(
    help=(
        "Plan a run: memory of a worker by ZeRO stage, micro-batch, time of a step, tokens a\n"
        "second, days, cost and disk, each with its formula. The speed is measured on a worker of\n"
        "the cluster or of this machine, or assumed for plan.device. Once the run has logged\n"
        "steps, the plan is held against them. cluster/SIZING.md explains the formulas."
    ),
    groups=(
        *("plan", "run", "corpus.output", "corpus.sequence_length", "corpus.vocab"),
        *("corpus.vocab_size", "corpus.masking.probability", "corpus.pairs.dupe_factor"),
        *("model", "train", "engine", "scaling"),
    ),
    plan=plan,
    execute=execute,
)

if __name__ == "__main__":
    raise SystemExit(main(VERB))
