"""Where the wall time of a run went, by its record of steps: goodput, and the rest by cause."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.training.measure.step_log import Attempt, Owners

TRAINING = "training"
CAUSES = (
    *(TRAINING, "start", "data", "evaluation", "checkpoint", "other"),
    *("restart", "repeated steps", "skipped steps", "between commands"),
)


def seconds_by_cause(
    lines: Iterable[Mapping[str, Any]], attempts: Sequence[Attempt]
) -> dict[str, float]:
    """Seconds by cause, in the order of CAUSES; together they are the wall time.

    `training` are the steps whose updates the weights contain. Steps that were lost with a failure,
    and so were done again, are `repeated steps` where they are on record, else part of `restart`.

    Args:
        lines: of `steps.jsonl`, in order; one with `command` says when a command began.
        attempts: the starts of the workers.
    """
    seconds, owners = dict.fromkeys(CAUSES, 0.0), Owners(attempts)
    last: float | None = None
    attempt: int | None = None
    for line in lines:
        if "command" in line:
            if last is not None:
                seconds["between commands"] += max(0.0, line["end"] - last)
            last, attempt = line["end"], None
            continue
        if last is not None:
            cause = "start" if attempt is None else "restart"
            cause = "other" if attempt == line["attempt"] else cause
            seconds[cause] += max(0.0, line["end"] - sum(line["seconds"].values()) - last)
        last, attempt = line["end"], line["attempt"]
        for part, value in line["seconds"].items():
            seconds[_cause(part, line, owners)] += value
    return seconds


def goodput(seconds: Mapping[str, float]) -> float:
    """Share of the wall time that trained."""
    return seconds[TRAINING] / (sum(seconds.values()) or 1.0)


def _cause(part: str, line: Mapping[str, Any], owners: Owners) -> str:
    if "step" in line:
        kept = owners.of(line["step"])
        if kept and kept.number != line["attempt"]:
            return "repeated steps"
        if part == "step":
            return TRAINING if line.get("applied", True) else "skipped steps"
    return part if part in CAUSES else "other"
