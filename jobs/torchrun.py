"""Train on prepared shards without Ray: alone, or under torchrun on a bare GPU machine.

python -m jobs.torchrun --config F
torchrun --nproc-per-node 8 -m jobs.torchrun --config F scaling.workers=8
"""

from __future__ import annotations

import sys

from rich.console import Console

from jobs.command import Verb, main, table
from pipeline import preflight as plans
from pipeline.settings.config import Config
from pipeline.training.launch import torchrun as alone


def execute(config: Config, console: Console) -> None:
    state = alone.fit(config, None)
    if alone.rank() == 0:
        console.print(table("Trained", {"step": state["step"], **state["heldout"]}))


VERB = Verb(
    help=__doc__,
    groups=("run", "model", "train", "optim", "engine"),
    plan=plans.pretrain,
    execute=execute,
)

if __name__ == "__main__":
    sys.exit(main(VERB))
