"""A look at a corpus: numbers from its manifest and samples, as JSON and as one HTML page."""

from __future__ import annotations

import html
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline.corpus.columns import draw
from pipeline.corpus.records import Masks, Pairs
from pipeline.corpus.samples.pairs import CONTINUATION, NO_LABEL, OTHER
from pipeline.corpus.shards.reader import ShardFolder, flat_pairs
from pipeline.storage import write_whole

_BLOCK = 8192
_LONGEST_WORD = 8
"""Words of more tokens are counted by length, not by text."""
_TOP = 100
Histogram = NDArray[np.int64]


def corpus_report(reader: ShardFolder, tokens: Sequence[str], samples: int) -> dict[str, Any]:
    """Measure a corpus on up to `samples` samples, spread evenly over it.

    Args:
        tokens: the vocabulary, by id.

    Returns:
        Plain numbers, lists and dicts. Histograms are lists whose index is the value counted.
    """
    manifest = reader.manifest
    read = np.unique(np.linspace(0, len(reader) - 1, min(samples, len(reader))).astype(np.int64))
    longest = max(m.sequence_length for m in reader.manifests)
    lengths, word_lengths = np.zeros(longest + 1, np.int64), np.zeros(longest + 1, np.int64)
    masked = np.zeros(longest + 1, np.int64)
    labels, kinds, token_counts = np.zeros(256, int), Counter[str](), np.zeros(len(tokens), int)
    words: Counter[tuple[int, ...]] = Counter()
    for first in range(0, len(read), _BLOCK):
        rows = reader.rows(read[first : first + _BLOCK])
        pairs = flat_pairs(rows)
        lengths += np.bincount(rows.lengths, minlength=longest + 1)
        labels += np.bincount(rows.next_sentence_label, minlength=256)
        token_counts += np.bincount(pairs.input_ids, minlength=len(tokens))
        masked += np.bincount(np.diff(rows.masks.offsets), minlength=longest + 1)
        kinds.update(_kinds_of_masks(pairs, rows.masks, manifest.special_ids["[MASK]"]))
        word_lengths += _count_words(pairs, manifest.special_ids, words, longest)
    total = int((lengths * np.arange(longest + 1)).sum())
    chosen = int((masked * np.arange(longest + 1)).sum())
    token_counts[list(manifest.special_ids.values())] = 0
    return {
        "folders": list(reader.folders),
        "vocabulary": {"size": manifest.vocab_size, "sha256": manifest.vocab_sha256},
        "segmenter": manifest.segmenter,
        "counts": _sum_of(m.counts for m in reader.manifests),
        "drops": _sum_of(m.drops for m in reader.manifests),
        "unknown": _most(_sum_of(m.unknown for m in reader.manifests)),
        "samples": len(reader),
        "measured_samples": len(read),
        "tokens": sum(shard.tokens for m in reader.manifests for shard in m.shards),
        "mean_length": total / max(1, len(read)),
        "full_share": float(lengths[longest] / max(1, len(read))),
        "masked_share": chosen / max(1, total),
        "masked_as": {name: count / max(1, chosen) for name, count in kinds.items()},
        "next_sentence": {
            "continuation": int(labels[CONTINUATION]),
            "other": int(labels[OTHER]),
            "no_label": int(labels[NO_LABEL]),
        },
        "vocabulary_used": float((token_counts > 0).sum() / len(tokens)),
        "top_words": [
            ["".join(tokens[i].removeprefix("##") for i in word), count]
            for word, count in sorted(words.items(), key=lambda item: (-item[1], item[0]))[:_TOP]
        ],
        "token_frequencies": np.sort(token_counts[token_counts > 0])[::-1].tolist(),
        "lengths": lengths.tolist(),
        "word_lengths": np.trim_zeros(word_lengths, "b").tolist(),
        "masked_tokens": np.trim_zeros(masked, "b").tolist(),
    }


def _sum_of(counts: Any) -> dict[str, int]:
    total: Counter[str] = Counter()
    for part in counts:
        total.update(part)
    return dict(total)


def _most(counts: Mapping[str, int]) -> list[list[Any]]:
    return [list(item) for item in Counter(counts).most_common(_TOP)]


def _kinds_of_masks(pairs: Pairs, masks: Masks, mask_id: int) -> dict[str, int]:
    at = np.repeat(pairs.offsets[:-1], np.diff(masks.offsets)) + masks.positions
    original = pairs.input_ids[at]
    is_mask, is_same = masks.ids == mask_id, masks.ids == original
    return {
        "[MASK]": int(is_mask.sum()),
        "random": int((~is_mask & ~is_same).sum()),
        "itself": int(is_same.sum()),
    }


def _count_words(
    pairs: Pairs, special_ids: Mapping[str, int], words: Counter[tuple[int, ...]], longest: int
) -> Histogram:
    """Add the words to `words`, as tuples of ids; returns how many have each number of tokens."""
    starts = np.flatnonzero(pairs.word_starts)
    sizes = np.diff(starts, append=len(pairs.input_ids))
    ordinary = ~np.isin(pairs.input_ids[starts], list(special_ids.values()))
    starts, sizes = starts[ordinary], sizes[ordinary]
    histogram = np.bincount(sizes, minlength=longest + 1)
    starts, sizes = starts[sizes <= _LONGEST_WORD], sizes[sizes <= _LONGEST_WORD]
    keys = sizes.astype(np.uint64)
    for place in range(_LONGEST_WORD):
        at = np.flatnonzero(sizes > place)
        keys[at] = draw(keys[at], pairs.input_ids[starts[at] + place])
    _, example, counts = np.unique(keys, return_index=True, return_counts=True)
    for begin, size, count in zip(
        starts[example].tolist(), sizes[example].tolist(), counts.tolist(), strict=True
    ):
        words[tuple(pairs.input_ids[begin : begin + size].tolist())] += count
    return histogram


def write_report(report: Mapping[str, Any], folder: Path) -> Path:
    """Write `report.json` and `report.html` into a folder; returns the page's path."""
    write_whole(
        str(folder / "report.json"), json.dumps(report, ensure_ascii=False, indent=1).encode()
    )
    write_whole(str(folder / "report.html"), _page(report).encode())
    return folder / "report.html"


def summary(report: Mapping[str, Any]) -> dict[str, str]:
    """The main figures, for people."""
    counts, labels = report["counts"], report["next_sentence"]
    labelled = labels["continuation"] + labels["other"]
    rows = {name.replace("_", " "): f"{number:,}" for name, number in counts.items()}
    rows |= {
        "samples": f"{report['samples']:,}",
        "tokens in samples": f"{report['tokens']:,}",
        "mean length": f"{report['mean_length']:.1f} ({report['full_share']:.1%} are full)",
        "masked": f"{report['masked_share']:.2%} of the tokens; seen as "
        + ", ".join(f"{name} {share:.1%}" for name, share in report["masked_as"].items())
        if report["masked_share"]
        else "by the feed, anew every epoch",
        "second segments": f"{labels['other'] / max(1, labelled):.1%} random or swapped"
        + (f"; {labels['no_label']:,} samples without" if labels["no_label"] else ""),
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
        _bars("Tokens of a word", report["word_lengths"][: _LONGEST_WORD + 1]),
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
