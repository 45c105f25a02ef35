"""Pictures of how a head answers: a confusion matrix, and confidence against accuracy."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.tracking.pictures import picture, plain

NUMBERED = 12
"""Most labels for which every cell of the confusion matrix shows its number."""


def draw_confusion(
    labels: Sequence[str], counts: Sequence[Sequence[int]], path: Path, title: str
) -> None:
    """Counts [true label][label found] as a PNG; colours are shares of the true label."""
    with picture(path) as figure:
        axes = figure.add_subplot(xlabel="answer", ylabel="truth", title=plain(title))
        names = list(map(plain, labels))
        of_truth = [max(1, sum(row)) for row in counts]
        shares = [
            [count / total for count in row] for row, total in zip(counts, of_truth, strict=True)
        ]
        mesh = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
        axes.set_xticks(range(len(labels)), names, rotation=90 if len(labels) > 6 else 0)
        axes.set_yticks(range(len(labels)), names)
        for i, row in enumerate(counts if len(labels) <= NUMBERED else []):
            for j, count in enumerate(row):
                color = "white" if shares[i][j] > 0.5 else "black"
                axes.text(j, i, f"{count:,}", ha="center", va="center", color=color)
        figure.colorbar(mesh, ax=axes)


def draw_calibration(
    bins: Sequence[tuple[int, float]], error: float, path: Path, title: str
) -> None:
    """Share of right answers over their probability, as a PNG.

    Args:
        bins: number of answers and share of right ones, in intervals of equal width from 0 to 1.
        error: expected calibration error, which the title shows.
    """
    with picture(path) as figure:
        axes = figure.add_subplot(
            xlabel="probability of the answer",
            ylabel="share that is right",
            title=f"{plain(title)}: calibration error {100 * error:.1f} %",
            xlim=(0, 1),
            ylim=(0, 1),
        )
        middles = [(place + 0.5) / len(bins) for place in range(len(bins))]
        axes.bar(middles, [accuracy for _, accuracy in bins], 0.9 / len(bins))
        for middle, (count, _) in zip(middles, bins, strict=True):
            if count:
                axes.text(middle, 0.02, f"{count:,}", ha="center", fontsize=7)
        axes.plot([0, 1], [0, 1], color="gray", linestyle=":", label="perfect calibration")
        axes.legend(loc="upper left")


def draw_curves(curves: Mapping[str, Sequence[tuple[float, float]]], path: Path) -> None:
    """Scores of tasks over tokens of pretraining, as a PNG: [(tokens, score)] by task."""
    with picture(path) as figure:
        axes = figure.add_subplot(
            xlabel="tokens of pretraining", ylabel="score", title="Task scores"
        )
        for name, points in curves.items():
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", label=plain(name))
        axes.legend()
        axes.grid(alpha=0.3)
