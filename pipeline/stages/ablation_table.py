"""What the runs of an ablation reached, as a table."""

from collections.abc import Iterable, Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from pipeline.tables import Table


class Row(NamedTuple):
    """What the runs of a variant reached."""

    variant: str
    runs: list[dict[str, float]]
    """Scores of each run that has ended, by name, and its seed."""
    failed: list[str]
    """A line for each run that could not go on."""
    exports: list[str]


def summarize(rows: Iterable[Row]) -> list[dict[str, str]]:
    """A mapping from column to text for each variant, as mean ± standard deviation.

    `difference` is that of the held-out MLM loss to the first variant, seed by seed: its deviation
    leaves out what both have from their common seed.
    """
    rows = list(rows)
    reference = {scores["seed"]: scores["mlm_loss"] for scores in rows[0].runs}
    table = []
    for row in rows:
        line = {"variant": row.variant, "runs": str(len(row.runs))}
        names = {name: None for scores in row.runs for name in scores if name != "seed"}
        for name in names:
            line[name] = mean_and_deviation([scores[name] for scores in row.runs if name in scores])
        both = [scores for scores in row.runs if scores["seed"] in reference]
        if row is not rows[0] and both:
            line["difference"] = mean_and_deviation(
                [scores["mlm_loss"] - reference[scores["seed"]] for scores in both], sign="+"
            )
        if row.failed:
            line["failed"] = str(len(row.failed))
        table.append(line)
    return table


def as_table(summary: Sequence[dict[str, str]]) -> Table:
    """A summary with a column for each name that a variant has."""
    columns = list({name: None for line in summary for name in line})
    return [columns, *([line.get(name, "") for name in columns] for line in summary)]


def mean_and_deviation(values: list[float], sign: str = "") -> str:
    """`mean ± standard deviation` of the sample; a single value stands alone."""
    mean = f"{fmean(values):{sign}.3f}"
    return f"{mean} ± {stdev(values):.3f}" if len(values) > 1 else mean
