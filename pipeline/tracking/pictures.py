"""Pictures of a run's history: the loss curve and LAMB's trust ratios."""

import contextlib
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

RATIO = "trust_ratio/"
LOSSES = {"mlm_loss": "training", "heldout_mlm_loss": "held out"}
"""Figures of the loss curve, and their labels."""
CHINESE_FONTS = (
    *("Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN"),
    *("WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Droid Sans Fallback", "Noto Sans CJK JP"),
    *("Microsoft YaHei", "SimHei", "SimSun", "PingFang SC", "Heiti SC", "Arial Unicode MS"),
)
"""Fonts that machines have for Chinese; matplotlib's own has none of its characters."""


def draw_curve(records: list[dict[str, float]], path: Path, unigram_loss: float | None) -> None:
    """Training and held-out MLM loss over steps, as a PNG.

    Args:
        records: of `history.read`.
        path: PNG file to write.
        unigram_loss: reference line (nats a token), if it is known.
    """
    with picture(path) as figure:
        axes = figure.add_subplot(
            xlabel="step", ylabel="masked-token loss (nats)", title="Masked-language-model loss"
        )
        for key, label in LOSSES.items():
            plot_by_step(axes, records, key, label)
        if unigram_loss is not None:
            axes.axhline(unigram_loss, color="gray", linestyle=":", label="token frequencies alone")
        axes.legend()


def plot_by_step(axes: Any, records: Sequence[Mapping[str, float]], key: str, label: str) -> None:
    """Plot a figure of the records that have it; `axes` are matplotlib's."""
    points = [(record["step"], record[key]) for record in records if key in record]
    if points:
        axes.plot(*zip(*points, strict=True), label=label)
    axes.grid(alpha=0.3)


def draw_trust_ratios(records: list[dict[str, float]], path: Path) -> bool:
    """LAMB's mean trust ratio of each layer group over steps, as a PNG; False if there is none."""
    logged = [record for record in records if any(key.startswith(RATIO) for key in record)]
    if not logged:
        return False
    groups = [key.removeprefix(RATIO) for key in logged[-1] if key.startswith(RATIO)]
    with picture(path) as figure:
        axes = figure.add_subplot(xlabel="step", title="Trust ratio by layer group")
        ratios = [[record.get(RATIO + group, math.nan) for record in logged] for group in groups]
        steps = [record["step"] for record in logged]
        mesh = axes.pcolormesh(steps, range(len(groups)), ratios, norm="log", shading="nearest")
        axes.set_yticks(range(len(groups)), groups)
        figure.colorbar(mesh, ax=axes)
    return True


@contextlib.contextmanager
def picture(path: Path) -> Iterator[Any]:
    """A figure of matplotlib, which becomes a PNG when the block ends; its texts may be Chinese."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.font_manager import get_font_names

    fonts = [name for name in CHINESE_FONTS if name in get_font_names()]
    family = ["DejaVu Sans", *fonts]
    with matplotlib.rc_context({"font.family": family}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # no font has it: it is an empty box
        figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        figure.savefig(path)


def plain(text: str) -> str:
    """A text of the user, in which matplotlib sees no formula."""
    return text.replace("$", r"\$")
