"""The report on a corpus as JSON, as one HTML page, and as lines for a terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from pipeline.corpus.shards.report import LONGEST_WORD
from pipeline.figures import svg_of
from pipeline.files.storage import write_json, write_whole
from pipeline.pages import page_of


def write_report(report: Mapping[str, Any], folder: Path) -> Path:
    """Write `report.json` and `report.html` into a folder; returns the path of the page."""
    write_json(folder / "report.json", report)
    write_whole(folder / "report.html", _page(report).encode())
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
        else "while training, new ones in every epoch",
        "second segments": f"{labels['other'] / max(1, labelled):.1%} random or swapped"
        + (f"; {labels['no_label']:,} samples without B" if labels["no_label"] else ""),
        "vocabulary": f"{report['vocabulary_used']:.1%} of {report['vocabulary']['size']:,} used",
        "dropped": ", ".join(f"{name} {n:,}" for name, n in report["drops"].items()) or "nothing",
        "most frequent words": " ".join(word for word, _ in report["top_words"][:20]),
    }
    if lines := report["boilerplate"]:
        first = [f"{line} {count:,}" for line, count in lines[:5]]
        rows["lines removed from most documents"] = ", ".join(first)
    if unknown := counts.get("unknown_tokens"):
        rows["unknown tokens"] = f"{unknown:,} ({unknown / max(1, counts['tokens']):.3%})"
        first = [f"{character} {count:,}" for character, count in report["unknown"][:20]]
        rows["unknown characters"] = ", ".join(first)
    return rows


def _page(report: Mapping[str, Any]) -> str:
    return page_of(
        "pipeline.corpus.shards",
        "report.html.j2",
        title="Corpus " + ", ".join(report["folders"]),
        facts=summary(report),
        pictures=_pictures(report),
        tables={
            "Most frequent words": _counted(report["top_words"]),
            "Unknown characters": _counted(report["unknown"]),
            "Lines removed from most documents": _counted(report["boilerplate"]),
            "Some of what was dropped": report["dropped"],
        },
    )


def _counted(rows: Sequence[Sequence[Any]]) -> list[tuple[str, str]]:
    return [(name, f"{number:,}") for name, number in rows]


def _pictures(report: Mapping[str, Any]) -> str:
    """Histograms, token frequencies by rank and drops by reason, as one SVG element."""
    figure = Figure(figsize=(12, 9), layout="tight")
    *bars, curve, drops, unused = figure.subplots(3, 2).flat
    histograms = {
        "Tokens of a sample": report["lengths"],
        "Tokens of a word": report["word_lengths"][: LONGEST_WORD + 1],
        "Masked tokens of a sample": report["masked_tokens"],
    }
    for axes, (title, histogram) in zip(bars, histograms.items(), strict=True):
        axes.set_title(title)
        axes.bar(np.arange(len(histogram)), histogram, width=1.0)
    curve.set_title("Token frequency by rank")
    frequencies = np.array(report["token_frequencies"])
    ranks = np.unique(np.geomspace(1, max(1, len(frequencies)), 300).astype(int))
    curve.loglog(ranks[: len(frequencies)], frequencies[ranks[: len(frequencies)] - 1])
    drops.set_title("Dropped, by reason")
    drops.barh(list(report["drops"]), list(report["drops"].values()))
    unused.set_axis_off()
    return svg_of(figure)
