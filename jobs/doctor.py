"""Examine the cluster before a run: `python -m jobs.doctor --config F [a.b=c …]`."""

from rich.console import Console

from jobs.command import Verb, main
from jobs.output.tables import table
from pipeline.cluster.ray_cluster import gpus_per_worker
from pipeline.doctor import cluster
from pipeline.doctor.findings import Finding
from pipeline.doctor.node import Facts
from pipeline.errors import ConfigError
from pipeline.settings.config import Config
from pipeline.tracking.store import shown_uri


def plan(config: Config) -> dict[str, object]:
    return {
        "examine each node": "versions, GPUs, memory, shared memory, disk, clock, storage",
        "write and read": f"{config.run.storage}, a file of 32 MB on each node",
        "examine together": f"all-reduce, {shown_uri(config)}, token, shard cache",
    }


def execute(config: Config, console: Console) -> None:
    nodes, found = cluster.examine_nodes(config, quick=False)
    for facts in nodes:
        console.print(table(facts.host, rows(facts)))
    if not any(each.fatal for each in found):  # a bad node would hold up the others
        found += cluster.check_shared(config)
        try:
            gpus = bool(gpus_per_worker(config.scaling.gpus_per_worker))
            speed, size = cluster.bandwidth(gpus)
            name = f"all-reduce of {size} {'GPUs' if gpus else 'nodes'}"
            if speed:
                console.print(table("Together", {name: f"{speed:.2f} GB/s of bus bandwidth"}))
        except ConfigError as error:
            found.append(Finding("", str(error), "see the log of Ray's workers", True))
    problems = {
        f"{number}. {each.host or 'cluster'}": f"{each.problem}\n→ {each.advice}"
        for number, each in enumerate(found, 1)
    }
    console.print(table("What to do", problems or {"nothing": "no problem was found"}))
    if fatal := [each for each in found if each.fatal]:
        raise ConfigError(f"{len(fatal)} problem(s) with which a run can't work; see above")


def rows(facts: Facts) -> dict[str, str]:
    """What a node has, as rows of a table."""
    return {
        "versions": ", ".join(f"{name} {version}" for name, version in facts.versions.items()),
        "CPUs": str(facts.cpus),
        "free memory": f"{facts.memory_gigabytes:.1f} GB",
        "shared memory": f"{facts.shared_memory_gigabytes:.1f} GB",
        "free disk": f"{facts.disk_gigabytes:.0f} GB",
        "GPUs": ", ".join(f"{name} {tflops:.0f} TFLOP/s" for name, tflops in facts.gpus) or "none",
        "storage": facts.storage
        or f"written with {facts.written:.0f} MB/s, read with {facts.read:.0f} MB/s",
    }


VERB = Verb(
    help=(
        "Examine the cluster before money is spent: each node by itself, then all together.\n"
        "It prints what it finds and what to do about it, and ends with 2 if a run can't work.\n"
        "jobs.pretrain does the short form by itself where there is more than one node."
    ),
    groups=(
        *("run.storage", "scaling.gpus_per_worker", "tracking.uri", "train.shards"),
        *("train.shard_cache", "train.shard_cache_gigabytes", "train.window_shards"),
    ),
    plan=plan,
    execute=execute,
)

if __name__ == "__main__":
    raise SystemExit(main(VERB))
