"""What a run consumed, by its own records: whether every sample of an epoch was used exactly once.

Rank 0 recorded for each step the number and a checksum of the samples that all ranks consumed
together. They are compared with the order that the settings of the newest checkpoint define.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import CheckpointError
from pipeline.feed.base import BaseFeed
from pipeline.feed.fingerprints import require_same_data
from pipeline.feed.opening import open_feed
from pipeline.files import journal
from pipeline.paths import RunPaths
from pipeline.progress import Say
from pipeline.settings.config import Config
from pipeline.training.checkpoints import files
from pipeline.training.faults import events
from pipeline.training.measure import step_log
from pipeline.training.measure.step_log import Attempt, Owners

KEYS = {"attempt", "step", "batch", "samples", "sum", "applied", "end", "seconds"}
SHOW_EVERY = 1000
"""Records between two lines of progress."""
SHOWN = 5
"""Samples of a kind that a problem names."""


class Consumed(NamedTuple):
    """The record of a step: fields of `StepLog.add`."""

    step: int
    batch: int
    samples: int
    sum: int
    applied: bool
    damaged: int


class Audit(NamedTuple):
    """What a run consumed, and where that differs from the order that its settings define."""

    steps: int
    """Steps that the newest checkpoint contains."""
    attempts: int
    """Starts of the workers."""
    workers: list[int]
    """Different numbers of workers."""
    repeated: int
    """Steps that were done again after a failure, and that the weights contain once."""
    unapplied: list[int]
    """Steps whose gradients were not finite: their samples changed no weight."""
    left_out: int
    """Global batches that rewinds left out."""
    damaged: int
    """Samples that were left out in their places in the order, because their shards are damaged."""
    epochs: list[str]
    """Of each epoch: how many of its samples were used, and how often."""
    problems: list[str]


def audit(config: Config, show: Say = lambda line: None) -> Audit:
    """Audit the run that the settings name, up to its newest checkpoint.

    Args:
        show: takes lines that say how far it is; each replaces the one before.

    Raises:
        CheckpointError: there is none, or the run has no record of its steps.
        FingerprintError: the shards are not those that the run was trained on.
        ShardError: their manifests cannot be read.
    """
    paths = RunPaths.of(config)
    newest = files.newest(paths.checkpoints)
    if not newest:
        raise CheckpointError(f"{paths.checkpoints}: no complete checkpoint, so nothing to audit")
    happened, unread = journal.read_checked(paths.run / events.FILE, events.Event)
    attempts, last = step_log.attempts(happened), files.step_of(newest)
    lines, repeated, damaged = _read_steps(paths.run, attempts, last, show)
    if not lines and not repeated:
        raise CheckpointError(
            f"{paths.run / step_log.FILE} or {events.FILE}: no record of what was consumed"
        )
    given = files.read_config(newest)
    place = {name: getattr(config.run, name) for name in ("storage", "scratch", "name")}
    given = given.model_copy(update={"run": given.run.model_copy(update=place)})
    feed = open_feed(given, rank=0, world_size=1)
    for attempt in attempts:
        require_same_data(attempt.fingerprint, feed.fingerprint_fields)
    problems: list[str] = []
    chosen = list(_chosen(last, Owners(attempts), lines, problems))
    if problems:  # else the steps of lines that a crash has cut were done again
        problems += [f"{step_log.FILE}: line {number} is damaged" for number in damaged]
        problems += [f"{events.FILE}: line {number} is damaged" for number in unread]
    batches = {line.batch for line in chosen}
    first = attempts[0].batches_skipped  # of a branch: the batches that the other run consumed
    left_out = max(batches, default=first - 1) + 1 - first - len(batches)
    whole = not (problems or left_out or first)
    epochs, wrong = _count(feed, chosen, whole, show)
    return Audit(
        steps=last,
        attempts=len(attempts),
        workers=sorted({attempt.workers for attempt in attempts}),
        repeated=repeated,
        unapplied=[line.step for line in chosen if not line.applied],
        left_out=left_out,
        damaged=sum(line.damaged for line in chosen),
        epochs=epochs,
        problems=problems + wrong,
    )


def _read_steps(
    run: Path, attempts: Sequence[Attempt], last: int, show: Say
) -> tuple[dict[int, Consumed], int, list[int]]:
    """The records of the steps that the weights contain, by step.

    Beside them: how many there are of steps that were done again, and the numbers of the lines that
    are no records. Without attempts, no line is of a step.
    """
    owners, found, repeated = Owners(attempts), dict[int, Consumed](), 0
    damaged: list[int] = []
    for number, line in enumerate(journal.each(run / step_log.FILE, step_log.Line, damaged)):
        if number % SHOW_EVERY == 0:
            show(f"records read: {number:,}, for {last:,} steps")
        if line.keys() >= KEYS and line["step"] <= last:
            owner = owners.of(line["step"])
            if owner and owner.number == line["attempt"]:
                values = (line.get(name, 0) for name in Consumed._fields)
                found[line["step"]] = Consumed(*values)
            else:
                repeated += 1
    return found, repeated, damaged


def _chosen(
    last: int, owners: Owners, lines: Mapping[int, Consumed], problems: list[str]
) -> Iterator[Consumed]:
    """The record of each step that the weights contain; adds what is wrong to the problems."""
    for step in range(1, last + 1):
        attempt, line = owners.of(step), lines.get(step)
        if not attempt or not line:
            started = f" of start {attempt.number} of the workers" if attempt else ""
            problems.append(f"step {step}{started}: no record of what it consumed")
            continue
        if line.batch != step - 1 + attempt.batches_skipped:
            problems.append(
                f"step {step}: took global batch {line.batch} instead of "
                f"{step - 1 + attempt.batches_skipped}"
            )
        yield line


def _count(
    feed: BaseFeed, lines: Sequence[Consumed], whole: bool, show: Say
) -> tuple[list[str], list[str]]:
    """How often the samples of each epoch were used, as text, and what is wrong.

    whole: whether no batch is missing, so that every epoch but the last must be complete.
    """
    bounds, problems = feed.source_bounds, []
    counts: dict[tuple[int, int], NDArray[np.uint8]] = {}
    for number, line in enumerate(lines):
        if number % SHOW_EVERY == 0:
            show(f"steps compared with the order: {number:,} of {len(lines):,}")
        samples, epochs = feed.samples(line.batch)
        if (line.samples, line.sum) != (len(samples), step_log.checksum_of(samples)):
            problems.append(
                f"step {line.step}: the workers consumed {line.samples} samples that are not "
                f"the {len(samples)} of global batch {line.batch}"
            )
            continue
        sources = np.searchsorted(bounds, samples, side="right") - 1
        for source, epoch in np.unique(np.stack([sources, epochs]), axis=1).T.tolist():
            rows = int(bounds[source + 1] - bounds[source])
            used = counts.setdefault((epoch, source), np.zeros(rows, np.uint8))
            at = samples[(sources == source) & (epochs == epoch)] - bounds[source]
            np.add.at(used, at, 1)
    texts = []
    for (epoch, source), used in sorted(counts.items()):
        name = f"epoch {epoch}" + (f" of source {source}" if len(bounds) > 2 else "")
        once, often = int((used == 1).sum()), np.flatnonzero(used > 1)
        texts.append(f"{name}: {once:,} of {len(used):,} samples exactly once")
        complete = whole and (epoch + 1, source) in counts
        unused = np.flatnonzero(used == 0) if complete else np.zeros(0, np.int64)
        for kind, which in (("more than once", often), ("never", unused)):
            if len(which):
                numbers = ", ".join(map(str, which[:SHOWN] + bounds[source]))
                problems.append(f"{name}: {len(which):,} samples {kind}, the first: {numbers}")
    return texts, problems
