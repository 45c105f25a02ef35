"""A comparison as Markdown, as a page of HTML, and as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict

from pipeline.comparing.comparison import Comparison
from pipeline.comparing.significance import Difference
from pipeline.pages import page_of
from pipeline.tables import Table, markdown_table


def sections(comparison: Comparison) -> list[tuple[str, str, Table]]:
    """Title, explanation and table of each section; the tables have a column for each subject."""
    first, *others = names = [subject.name for subject in comparison.subjects]
    published = comparison.published
    encoder = f"{published['model']} {published['layers']}×{published['hidden']}"
    scores = [["task", "score", "train / judged on", "trivial", *names, encoder]]
    differences = [["task", *(f"{first} − {name}" for name in others)]]
    other_scores = [["task", "score", *names]]
    seconds = []
    for row in comparison.rows:
        cells = [row.cells.get(name) for name in names]
        on = "test" if any(cell.on == "test" for cell in row.cells.values()) else "dev"
        sizes = f"{row.sizes['train']:,} / {row.sizes[on]:,} {on}"
        trivial = f"{100 * row.trivial:.1f} ({row.trivial_name})"
        reached = [str(cell.score) if cell else "failed" for cell in cells]
        known = published["scores"].get(row.task)
        shown = "–" if known is None else f"{known:.1f}"
        scores.append([row.task, row.metric, sizes, trivial, *reached, shown])
        differences.append([row.task, *(_difference(row.differences.get(name)) for name in others)])
        for key in dict.fromkeys(key for cell in row.cells.values() for key in cell.other):
            if key != row.metric:
                values = [cell.other.get(key) if cell else None for cell in cells]
                percent = ["–" if value is None else f"{100 * value:.1f}" for value in values]
                other_scores.append([row.task, key, *percent])
        seconds.append([cell.seconds if cell else 0.0 for cell in cells])
    sums = map(sum, zip(*seconds, strict=True))
    tasks = [*(row.task for row in comparison.rows), "all"]
    cost = [
        [task, *(f"{each:,.0f}" for each in own)]
        for task, own in zip(tasks, [*seconds, sums], strict=True)
    ]
    seeds = max((cell.seeds for row in comparison.rows for cell in row.cells.values()), default=0)
    found = [
        (
            "Scores",
            f"In per cent, mean ± standard deviation over {seeds} seed(s) of fine-tuning. The last "
            f"column has published dev scores of the encoder that is nearest in size, trained on "
            f"all data; protocols differ ({published['source']}).",
            scores,
        ),
        (
            "Differences",
            "In points, with the 95 % interval of a paired bootstrap over examples and seeds; p of "
            "McNemar's exact test on the majority of the seeds, which takes the seeds as given, or "
            "for F1 of the bootstrap.",
            differences,
        ),
        ("Other scores", "Means over the seeds, in per cent.", other_scores),
        (
            "Cost",
            f"Seconds of all trials, searches included; {comparison.seconds:,.0f} in all.",
            [["task", *names], *cost],
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


def _difference(found: Difference | None) -> str:
    """Points, 95 % interval, p and the test."""
    if found is None:
        return "–"
    p = f"p = {found.p:.3f}" if found.p >= 0.001 else "p < 0.001"
    interval = f"{100 * found.low:+.1f} … {100 * found.high:+.1f}"
    return f"{100 * found.mean:+.1f} ({interval}), {p} ({found.test})"
