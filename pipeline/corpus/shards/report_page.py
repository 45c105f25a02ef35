"""The report on a corpus as JSON, as one HTML page, and as lines for a terminal."""

from __future__ import annotations

import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pipeline.corpus.shards.report import LONGEST_WORD, Histogram
from pipeline.storage import write_whole


def write_report(report: Mapping[str, Any], folder: Path) -> Path:
    """Write `report.json` and `report.html` into a folder; returns the path of the page."""
    write_whole(
        str(folder / "report.json"), json.dumps(report, ensure_ascii=False, indent=1).encode()
    )
    write_whole(str(folder / "report.html"), _page(report).encode())
    return folder / "report.html"


def summary(report: Mapping[str, Any]) -> dict[str, str]:
    """The main figures by name, as text."""
    counts, labels = report["counts"], report["next_sentence"]
    labelled = labels["continuation"] + labels["other"]
    rows = {name.replace("_", " "): f"{number:,}" for name, number in counts.items()}
    rows |= {
        "samples": f"{report['samples']:,}",
        "tokens in samples": f"{report['tokens']:,}",
        "mean length": f"{report['mean_length']:.1f} ({report['full_share']:.1%} are full)",
        "masked": f"{report['masked_share']:.2%} of the tokens; shown as "
        + ", ".join(f"{name} {share:.1%}" for name, share in report["masked_as"].items())
        if report["masked_share"]
        else "while training, anew in every epoch",
        "second segments": f"{labels['other'] / max(1, labelled):.1%} random or swapped"
        + (f"; {labels['no_label']:,} samples without B" if labels["no_label"] else ""),
        "vocabulary": f"{report['vocabulary_used']:.1%} of {report['vocabulary']['size']:,} used",
        "dropped": ", ".join(f"{name} {n:,}" for name, n in report["drops"].items()) or "nothing",
        "most frequent words": " ".join(word for word, _ in report["top_words"][:20]),
    }
    if unknown := counts.get("unknown_tokens"):
        rows["unknown tokens"] = f"{unknown:,} ({unknown / max(1, counts['tokens']):.3%})"
        first = [f"{character} {count:,}" for character, count in report["unknown"][:20]]
        rows["unknown characters"] = ", ".join(first)
    return rows


def _page(report: Mapping[str, Any]) -> str:
    ranks = np.arange(1, len(report["token_frequencies"]) + 1)
    plots = [
        _bars("Tokens of a sample", report["lengths"]),
        _bars("Tokens of a word", report["word_lengths"][: LONGEST_WORD + 1]),
        _bars("Masked tokens of a sample", report["masked_tokens"]),
        _curve("Token frequency by rank", ranks, np.array(report["token_frequencies"])),
    ]
    if report["drops"]:
        plots.append(_named_bars("Dropped, by reason", report["drops"]))
    facts = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
        for name, value in summary(report).items()
    )
    title = html.escape("Corpus " + ", ".join(report["folders"]))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        "<style>body{font:15px sans-serif;margin:2em auto;max-width:70em}"
        "th{text-align:left;padding-right:1em}td,th{vertical-align:top}"
        "svg{width:32em;height:auto}</style>"
        f"<h1>{title}</h1><table>{facts}</table>{''.join(plots)}"
        f"<h2>Most frequent words</h2>{_counted(report['top_words'])}"
        f"<h2>Unknown characters</h2>{_counted(report['unknown'])}</html>\n"
    )


def _counted(rows: Sequence[Sequence[Any]]) -> str:
    lines = (f"<tr><td>{html.escape(name)}</td><td>{n:,}</td></tr>" for name, n in rows)
    return f"<table>{''.join(lines)}</table>"


def _bars(title: str, histogram: Sequence[int]) -> str:
    figure = Figure(figsize=(6, 3))
    axes = figure.subplots()
    axes.bar(np.arange(len(histogram)), histogram, width=1.0)
    return _svg(figure, title)


def _named_bars(title: str, values: Mapping[str, int]) -> str:
    figure = Figure(figsize=(6, 1 + 0.3 * len(values)))
    axes = figure.subplots()
    axes.barh(list(values), list(values.values()))
    return _svg(figure, title)


def _curve(title: str, x: Histogram, y: Histogram) -> str:
    figure = Figure(figsize=(6, 3))
    axes = figure.subplots()
    at = np.unique(np.geomspace(1, max(1, len(x)), 300).astype(int)) - 1
    if len(x):
        axes.loglog(x[at], y[at])
    return _svg(figure, title)


def _svg(figure: Figure, title: str) -> str:
    figure.axes[0].set_title(title)
    figure.tight_layout()
    target = io.StringIO()
    figure.savefig(target, format="svg", metadata={"Date": None})
    return "<svg" + target.getvalue().partition("<svg")[2]
