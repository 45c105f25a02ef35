"""A comparison as Markdown, as a page of HTML, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from pipeline.comparing.comparison import Comparison, Row
from pipeline.comparing.significance import Difference
from pipeline.pages import page_of
from pipeline.tables import Table, markdown_table


def score_table(comparison: Comparison) -> Table:
    """Scores in per cent: mean ± standard deviation over seeds, and the published scores."""
    names = [subject.name for subject in comparison.subjects]
    published = comparison.published
    size = f"{published['layers']}×{published['hidden']}"
    head = ["task", "score", "train / judged on", "trivial", *names, f"{published['model']} {size}"]
    table = [head]
    for row in comparison.rows:
        on = "test" if any(cell.on == "test" for cell in row.cells.values()) else "dev"
        cells = [str(row.cells[name].score) if name in row.cells else "failed" for name in names]
        known = published["scores"].get(row.task)
        table.append(
            [
                row.task,
                row.metric,
                f"{row.sizes['train']:,} / {row.sizes[on]:,} {on}",
                f"{100 * row.trivial:.1f} ({row.trivial_name})",
                *cells,
                "–" if known is None else f"{known:.1f}",
            ]
        )
    return table


def difference_table(comparison: Comparison) -> Table:
    """The first subject minus each other: points, 95 % interval, p and the test."""
    first = comparison.subjects[0].name
    others = [subject.name for subject in comparison.subjects[1:]]
    table = [["task", *(f"{first} − {name}" for name in others)]]
    for row in comparison.rows:
        found = [row.differences.get(name) for name in others]
        table.append([row.task, *("–" if each is None else _difference(each) for each in found)])
    return table


def cost_table(comparison: Comparison) -> Table:
    """Computing time of each subject, in seconds, by task."""
    names = [subject.name for subject in comparison.subjects]
    table = [["task", *names]]
    for row in comparison.rows:
        table.append([row.task, *(f"{_seconds(row, name):,.0f}" for name in names)])
    sums = [sum(_seconds(row, name) for row in comparison.rows) for name in names]
    table.append(["all", *(f"{each:,.0f}" for each in sums)])
    return table


def other_scores(comparison: Comparison) -> Table:
    """Every score that is not the task's own, mean over seeds, in per cent."""
    names = [subject.name for subject in comparison.subjects]
    table = [["task", "score", *names]]
    for row in comparison.rows:
        keys = dict.fromkeys(key for cell in row.cells.values() for key in cell.other)
        for key in keys:
            if key == row.metric:
                continue
            found = [
                row.cells[name].other.get(key) if name in row.cells else None for name in names
            ]
            cells = ["–" if value is None else f"{100 * value:.1f}" for value in found]
            table.append([row.task, key, *cells])
    return table


def sections(comparison: Comparison) -> list[tuple[str, str, Table]]:
    """Title, explanation and table of each section."""
    seeds = max((cell.seeds for row in comparison.rows for cell in row.cells.values()), default=0)
    published = comparison.published
    found = [
        (
            "Scores",
            f"In per cent, mean ± standard deviation over {seeds} seed(s) of fine-tuning. The last "
            f"column has published dev scores of the encoder that is nearest in size, trained on "
            f"all data; protocols differ ({published['source']}).",
            score_table(comparison),
        ),
        (
            "Differences",
            "In points, with the 95 % interval of a paired bootstrap over examples and seeds; p of "
            "McNemar's exact test on the majority of the seeds, which takes the seeds as given, or "
            "for F1 of the bootstrap.",
            difference_table(comparison),
        ),
        ("Other scores", "Means over the seeds, in per cent.", other_scores(comparison)),
        (
            "Cost",
            f"Seconds of all trials, searches included; {comparison.seconds:,.0f} in all.",
            cost_table(comparison),
        ),
    ]
    if comparison.failures:
        found.append(("Failures", "", [["trial"], *([line] for line in comparison.failures)]))
    return found


def to_markdown(comparison: Comparison) -> str:
    """All tables, for a README."""
    parts = ["# Comparison"]
    for title, text, table in sections(comparison):
        parts += [f"## {title}", text, markdown_table(table)]
    return "\n\n".join(part for part in parts if part) + "\n"


def to_html(comparison: Comparison, pictures: Sequence[str] = ()) -> str:
    """A page of its own; `pictures` are the names of files beside it."""
    values = {"sections": sections(comparison), "pictures": pictures}
    return page_of("pipeline.comparing", "comparison.html.j2", **values)


def to_json(comparison: Comparison) -> str:
    """Every number, for programs."""
    return json.dumps(asdict(comparison), indent=2, ensure_ascii=False) + "\n"


def _seconds(row: Row, name: str) -> float:
    return row.cells[name].seconds if name in row.cells else 0.0


def _difference(found: Difference) -> str:
    p = f"p = {found.p:.3f}" if found.p >= 0.001 else "p < 0.001"
    interval = f"{100 * found.low:+.1f} … {100 * found.high:+.1f}"
    return f"{100 * found.mean:+.1f} ({interval}), {p} ({found.test})"
