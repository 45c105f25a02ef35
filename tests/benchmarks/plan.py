"""What `jobs.plan` predicts beside what a run then takes, for two networks on this machine's CPUs.

    python -m tests.benchmarks.plan FOLDER

Each run is a process of its own. Memory is its resident peak.
"""

import os
import subprocess
import sys
from pathlib import Path
from statistics import median

from pipeline.cpu import ENVIRONMENT
from pipeline.paths import RunPaths
from pipeline.settings.reading.config_file import dump_yaml, load_config
from pipeline.sizing import plan
from pipeline.training.measure import history
from tests.corpora import write_corpus, write_vocabulary

NETWORKS = {
    "tiny 4 × 256": "{size: tiny}",
    "small 6 × 512": "{size: small}",
}
RUN = """
import sys
from pipeline.settings.reading.config_file import load_config
from tests.small_run import fit
fit(load_config(sys.argv[1]))
"""


def main(folder: Path) -> None:
    print("| network | step, planned | was | | memory, planned | was | |")
    print("|---|---|---|---|---|---|---|")
    for name, model in NETWORKS.items():
        config = load_config(
            None,
            [
                f"run.storage={folder}",
                f"run.name={name.split()[0]}",
                f"model={model}",
                "train={steps: 12, global_batch: 64, micro_batch: 32, log_every: 4}",
                "train.profile_every=0",
                "train.checkpoint_every=12",
                "optim.warmup=0",
                "scaling.workers=1",
            ],
        )
        paths = RunPaths.of(config)
        paths.run.mkdir(parents=True)
        write_corpus(paths.shards, write_vocabulary(Path(paths.vocab)), documents=400, length=128)
        made = plan.make(config)
        planned = sum(made.step)
        (paths.run / "given.yaml").write_text(dump_yaml(config), "utf-8")
        command = [sys.executable, "-c", RUN, str(paths.run / "given.yaml")]
        subprocess.run(command, check=True, capture_output=True, env=ENVIRONMENT | os.environ)
        records = history.read(paths.run)
        step = median(r["step_seconds"] for r in records if "step_seconds" in r)
        peak = max(r["peak_gigabytes"] for r in records if "peak_gigabytes" in r)
        memory = sum(made.memory[1]) / 1e9
        print(
            f"| {name} | {planned:.3f} s | {step:.3f} s | {step / planned - 1:+.0%} "
            f"| {memory:,.3f} GB | {peak:,.3f} GB | {peak / memory - 1:+.0%} |"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
