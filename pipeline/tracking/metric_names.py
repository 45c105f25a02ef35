"""Names of metrics in MLflow, whose pages show `group/name` in groups.

The names in `metrics.jsonl` have no groups.

| group | metrics |
|---|---|
| train | losses and accuracies of training batches, learning rate, gradient norm … |
| heldout, dev, test | scores on data that is not trained on |
| evaluated | held-out scores that `jobs.evaluate` gave beside the training |
| size | how many held-out tokens and words are masked |
| speed | tokens a second, utilisation, seconds a step and left, seconds of checkpoints |
| lamb | trust ratios, norms of weights and updates |
| time | shares of a step |
| attention_entropy, dead_units | of each layer (`pipeline/training/measure/activity.py`) |
"""

import re
import time
from functools import lru_cache

from mlflow.entities import Metric

SPEED = (
    "tokens_per_second",
    "mfu",
    "tflops_per_worker",
    "step_seconds",
    "seconds_left",
    "peak_gigabytes",
)
LAMB = ("trust_ratio", "weight_norm", "update_norm")
JUDGED = ("heldout", "dev", "test")
"""Words that a name begins with, and that become its group."""
REFUSED = re.compile(r"[^\w.\- /]|/(?=/|$|\.\.?(?:/|$))")
"""Characters that MLflow refuses in a name; labels of tasks may have them.

A slash is refused where a path would lose it or what stands before it: `a/`, `a//b`, `a/../b`.
"""


@lru_cache(maxsize=4096)
def grouped(name: str) -> str:
    """`heldout_mlm_loss` → `heldout/mlm_loss`, `loss` → `train/loss`, `mfu` → `speed/mfu` …

    A name that has a group of another kind keeps it.
    """
    name = accepted(name)
    first, _, rest = name.partition("_")
    if first in JUDGED and rest.startswith("masked_"):
        return f"size/{name}"  # which never changes, and would stand before the scores
    if first in JUDGED and rest:
        return f"{first}/{rest}"
    if name.startswith(LAMB):
        return f"lamb/{name}"
    if name in SPEED:
        return f"speed/{name}"
    return name if "/" in name else f"train/{name}"


def point(name: str, value: float, step: int = 0) -> Metric:
    """A metric that was measured now, under its name in MLflow."""
    return Metric(name, float(value), int(time.time() * 1000), step)


def accepted(name: str) -> str:
    """The name of a metric, parameter or tag, without characters that MLflow refuses.

    Each becomes `:` and its hexadecimal code: `f1_C++` → `f1_C:2b:2b`. One refused name would keep
    all metrics of its request from MLflow.
    """
    return REFUSED.sub(lambda found: f":{ord(found[0]):x}", name)
