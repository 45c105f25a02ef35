"""The run's own record of its course: `metrics.jsonl`, one line a logged step, and its picture."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FILE = "metrics.jsonl"
RATIO = "trust_ratio/"


def read(folder: Path) -> list[dict[str, float]]:
    """All records, oldest first; a last line cut off by a crash is left out."""
    path = folder / FILE
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


def append(folder: Path, record: Mapping[str, float]) -> None:
    """Add one record as one write, so that a reader never sees half of a line as a whole one."""
    with (folder / FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(dict(record)) + "\n")


def rewind(folder: Path, step: int) -> None:
    """Forget the records after a step: a resumed run writes them again."""
    kept = [record for record in read(folder) if record["step"] <= step]
    temporary = folder / f"{FILE}.tmp"
    temporary.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
    temporary.replace(folder / FILE)


class Recorder:
    """Rank 0's record: the run's own file, and MLflow."""

    def __init__(
        self, rank: int, folder: Path, step: int, tracking: tuple[str, str] | None
    ) -> None:
        self._folder = folder if rank == 0 else None
        self._tracker: Any = None
        if self._folder:
            self._folder.mkdir(parents=True, exist_ok=True)
            rewind(self._folder, step)
            if tracking:
                # Without it, as on one machine, MLflow need not be there.
                from pipeline.tracking.runs import Tracker

                self._tracker = Tracker(*tracking)

    def write(self, step: int, values: dict[str, float]) -> None:
        if self._folder:
            append(self._folder, {"step": step, **values})
        if self._tracker:
            self._tracker.log(step, values)

    def close(self) -> None:
        if self._tracker:
            self._tracker.close()


def progress_line(record: Mapping[str, float], steps: int) -> str:
    """One record as the line that a person reads while the run goes on."""
    parts = [f"step {record['step']:.0f}/{steps}"]
    if "heldout_mlm_loss" in record:
        parts.append(f"held-out MLM {record['heldout_mlm_loss']:.3f}")
        parts.append(f"accuracy {record['heldout_mlm_accuracy']:.1%}")
        if "heldout_word_accuracy" in record:
            parts[-1] += f", of words {record['heldout_word_accuracy']:.1%}"
        if "heldout_nsp_accuracy" in record:
            parts.append(f"NSP {record['heldout_nsp_accuracy']:.1%}")
        return " · ".join(parts)
    parts.append(f"loss {record['loss']:.3f}")
    parts.append(f"MLM {record['mlm_loss']:.3f} ({record['mlm_accuracy']:.1%})")
    if "nsp_accuracy" in record:
        parts.append(f"NSP {record['nsp_accuracy']:.1%}")
    parts.append(f"{record['tokens_per_second']:,.0f} tokens/s")
    minutes, seconds = divmod(round(record["seconds_left"]), 60)
    parts.append(f"{minutes}:{seconds:02} left")
    return " · ".join(parts)


def draw_curve(records: list[dict[str, float]], path: Path, unigram_loss: float | None) -> None:
    """Training and held-out MLM loss over steps, as a PNG."""
    figure = _figure()
    axes = figure.add_subplot(
        xlabel="step", ylabel="masked-token loss (nats)", title="Masked-language-model loss"
    )
    for key, label in (("mlm_loss", "training"), ("heldout_mlm_loss", "held out")):
        points = [(record["step"], record[key]) for record in records if key in record]
        if points:
            axes.plot(*zip(*points, strict=True), label=label)
    if unigram_loss is not None:
        axes.axhline(unigram_loss, color="gray", linestyle=":", label="token frequencies alone")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path)


def draw_trust_ratios(records: list[dict[str, float]], path: Path) -> bool:
    """LAMB's mean trust ratio of each layer group over steps, as a PNG; False where it has none."""
    logged = [record for record in records if any(key.startswith(RATIO) for key in record)]
    if not logged:
        return False
    groups = [key.removeprefix(RATIO) for key in logged[-1] if key.startswith(RATIO)]
    figure = _figure()
    axes = figure.add_subplot(xlabel="step", title="Trust ratio by layer group")
    ratios = [[record.get(RATIO + group, math.nan) for record in logged] for group in groups]
    steps = [record["step"] for record in logged]
    mesh = axes.pcolormesh(steps, range(len(groups)), ratios, norm="log", shading="nearest")
    axes.set_yticks(range(len(groups)), groups)
    figure.colorbar(mesh, ax=axes)
    figure.savefig(path)
    return True


def _figure() -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure
