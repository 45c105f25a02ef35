"""The report on a run: one HTML page with its curves, its faults, and where its time went."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from pipeline.errors import TrainingError
from pipeline.figures import svg_of
from pipeline.files.storage import write_whole
from pipeline.pages import page_of
from pipeline.tracking.pictures import plot_by_step
from pipeline.training.faults import events
from pipeline.training.measure import history, step_log
from pipeline.training.measure.lost_time import goodput, seconds_by_cause

FILE = "report.html"
LOSSES = {"loss": "training", "heldout_mlm_loss": "held out (MLM)"}
SPEED = "tokens_per_second"
"""Figures that the curves show."""
MARKS = {"start": "tab:orange", "skipped": "tab:red", "spike": "tab:purple", "rewind": "tab:brown"}
"""Events that the curves show, with their colours; a start is marked from the second on."""


def write_report(run: Path) -> Path:
    """Write `report.html` into the run's folder, from the run's own records; returns its path.

    Raises:
        TrainingError: the run has no records.
    """
    records, happened = history.read(run, *LOSSES, SPEED), events.read(run)
    if not records and not happened:
        raise TrainingError(f"{run}: no records of a training")
    attempts = step_log.attempts(happened)
    seconds = seconds_by_cause(step_log.each(run), attempts)
    page = page_of(
        "pipeline.runs",
        "report.html.j2",
        name=run.name,
        steps=int(max((record["step"] for record in records), default=0)),
        starts=len(attempts),
        good=goodput(seconds),
        total=sum(seconds.values()) or 1.0,
        seconds=seconds,
        curves=_curves(records, happened),
        happened=[{**event, "clock": events.clock(event)} for event in happened],
    )
    write_whole(run / FILE, page.encode())
    return run / FILE


def _curves(records: Sequence[Mapping[str, float]], happened: Sequence[Mapping[str, Any]]) -> str:
    """Losses and throughput over steps as SVG, with what happened marked on them."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    losses, speed = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    for key, label in LOSSES.items():
        plot_by_step(losses, records, key, label)
    plot_by_step(speed, records, SPEED, "tokens a second")
    seen: set[str] = set()
    for kind, step in _marks(happened):
        for axes in (losses, speed):
            label = {"start": "restart"}.get(kind, kind) if kind not in seen else "_nolegend_"
            axes.axvline(step, color=MARKS[kind], linestyle="--", linewidth=1, label=label)
        seen.add(kind)
    losses.set_ylabel("loss (nats)")
    speed.set_ylabel("tokens / s")
    speed.set_xlabel("step")
    if losses.get_legend_handles_labels()[0]:  # none of a run that ended before its first record
        losses.legend()
    return svg_of(figure)


def _marks(happened: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]]:
    """Kind and step of the events to mark; the first start is none of them."""
    found = [event for event in happened if event["kind"] in MARKS and "step" in event]
    first = next((event for event in found if event["kind"] == "start"), None)
    return [(event["kind"], event["step"]) for event in found if event is not first]
