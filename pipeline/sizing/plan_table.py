"""A plan as a table, and how it compares with what happened."""

from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median

from pipeline.files.hashing import hash_of
from pipeline.files.storage import read_note, write_json
from pipeline.paths import RunPaths
from pipeline.settings.config import Config
from pipeline.sizing.plan import RunPlan
from pipeline.training.measure import history

FILE = "plan.json"
HAPPENED: dict[str, Callable[[Iterable[float]], float]] = {
    "step_seconds": median,
    "tokens_per_second": median,
    "peak_gigabytes": max,
}
"""The metrics of a run that are planned, and how its logged values become one."""


def rows(config: Config, plan: RunPlan) -> dict[str, str]:
    """The plan as rows of a table, each with its formula in numbers."""
    network, machine, step = plan.network, plan.machine, plan.step
    seconds = sum(step)
    mean = plan.seconds * plan.goodput.share / config.train.steps
    share = network.flops_per_token / plan.profile.seconds_per_token / 1e12
    found = {
        "network": f"{network.parameters:,} parameters, {network.flops_per_token:.3g} FLOP/token",
        "workers": f"{machine.workers}, {machine.per_node} on a node",
        "speed of a worker": (
            f"{1 / plan.profile.seconds_per_token:,.0f} tokens/s, {share:.2f} TFLOP/s in "
            f"{plan.profile.precision} on {plan.profile.device}, "
            + ("measured now" if plan.measured else f"assumed (plan.mfu={config.plan.mfu:g})")
        ),
        "batch": (
            f"{config.train.global_batch:,} = {machine.workers} × {plan.split.accumulation} × "
            f"{plan.split.micro_batch} samples, {plan.tokens:,.0f} tokens"
        ),
    }
    for stage, memory in plan.memory.items():
        parts = " + ".join(f"{k} {_size(v)}" for k, v in memory._asdict().items() if v)
        chosen = " (chosen)" if stage == config.engine.zero_stage else ""
        found[f"memory, ZeRO {stage}{chosen}"] = f"{_size(sum(memory))} = {parts}"
    if (largest := plan.largest_micro_batch) is not None:
        found["largest micro-batch"] = f"{largest} samples (a tenth kept free)"
        if largest < plan.split.micro_batch:
            found["largest micro-batch"] += (
                f"; the {plan.split.micro_batch} of the batch do not fit: lower train.micro_batch"
                if largest
                else "; nothing fits: raise engine.zero_stage or the number of workers, or set "
                "engine.activation_checkpointing or engine.offload"
            )
    found |= {
        "step": (
            f"{seconds:.3f} s = compute {step.compute:.3f} + gradients {step.communication:.3f} "
            f"+ optimizer {step.optimizer:.3f}"
        ),
        "tokens a second": f"{plan.tokens / seconds:,.0f}",
        "run": (
            f"{_duration(plan.seconds)} = {config.train.steps:,} steps × {mean:.3f} s / "
            f"{plan.goodput.share:.1%} goodput"
        ),
        "checkpoint": (
            f"{_size(plan.checkpoint)}, best every {plan.goodput.interval / seconds:,.0f} steps "
            f"(Young/Daly); train.checkpoint_every={config.train.checkpoint_every}"
        ),
        "disk": ", ".join(
            f"{name} {_size(size) if size else 'unknown: give plan.corpus_gigabytes'}"
            for name, size in plan.disk.items()
        ),
    }
    if plan.cost:
        hours, price = plan.seconds / 3600, config.plan.hourly_price
        found["cost"] = f"{plan.cost:,.0f} = {machine.workers} × {hours:,.1f} h × {price:g}"
    return found


def save(config: Config, plan: RunPlan) -> bool:
    """Keep what `compare` needs in the run folder, unless the run has logged steps.

    Those steps may have been made with other settings than these.
    """
    if history.newest(Path(RunPaths.of(config).run)):
        return False
    seconds = sum(plan.step)
    values = {"step_seconds": seconds, "tokens_per_second": plan.tokens / seconds}
    if plan.profile.peak:
        values["peak_gigabytes"] = sum(plan.memory[config.engine.zero_stage]) / 1e9
    write_json(f"{RunPaths.of(config).run}/{FILE}", values | {"settings": _settings(config)})
    return True


def compare(config: Config) -> dict[str, str]:
    """What was planned and what happened, of a run that has logged steps; else empty.

    It is empty too where the plan is of other settings: these ask for a plan of their own.
    """
    folder = RunPaths.of(config).run
    planned, found = read_note(Path(folder, FILE)), {}
    if planned.get("settings", own := _settings(config)) != own:
        return {}
    records = history.read(Path(folder), *HAPPENED)
    for name, figure in HAPPENED.items():
        value, values = planned.get(name), [record[name] for record in records if name in record]
        if values and isinstance(value, int | float):
            actual = figure(values)
            found[name] = f"planned {value:,.4g}, was {actual:,.4g} ({actual / value - 1:+.0%})"
    return found


def _settings(config: Config) -> str:
    """A hash of the settings that a plan depends on."""
    groups = {"plan", "corpus", "model", "train", "engine", "scaling"}
    return hash_of(config.model_dump(mode="json", include=groups))


def _duration(seconds: float) -> str:
    return f"{seconds / 86400:.2f} days" if seconds >= 8640 else f"{seconds / 60:.1f} minutes"


def _size(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
