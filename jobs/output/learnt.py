"""What a run has learnt, for the terminal: loss curve, held-out sentences, scores."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from pipeline.corpus.shards.format import is_corpus
from pipeline.export.fill_masks import Token, best_answers, held_out_samples
from pipeline.paths import RunPaths
from pipeline.settings.config import Config
from pipeline.stages.pretraining import CURVE
from pipeline.training.measure import history

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 60
"""Characters of the curve."""
SAMPLES, LENGTH = 3, 48
"""Held-out samples that are shown, and their tokens at most."""
QUESTION = "北京是中国的首[MASK]。"


def show_learnt(config: Config, console: Console) -> None:
    """Print the curve, masked held-out samples with the export's answers, and its best guesses."""
    paths = RunPaths.of(config)
    losses = [record["mlm_loss"] for record in history.read(paths.run, "mlm_loss")]
    if losses:
        console.print("What the network has learnt", style="bold")
        console.print(
            f"masked-token loss while training: {losses[0]:.2f} {curve(losses)} {losses[-1]:.2f}"
            f"   (picture: {paths.run / CURVE})"
        )
    if is_corpus(paths.heldout):
        console.print(
            "held-out text; masked characters stand in brackets, ✓ answered rightly, "
            "else answer → truth:"
        )
        for tokens in held_out_samples(paths.export, paths.heldout, SAMPLES, LENGTH):
            console.print(Text("  ") + marked(tokens))
    _show_question(paths.export, console)


def curve(values: Sequence[float], width: int = WIDTH) -> str:
    """Values as a line of bars, each the mean of a part of them."""
    width = min(width, len(values))
    parts = [
        values[i * len(values) // width : (i + 1) * len(values) // width] for i in range(width)
    ]
    means = [sum(part) / len(part) for part in parts]
    low, high = min(means), max(means)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((mean - low) * scale)] for mean in means)


def marked(tokens: Sequence[Token]) -> Text:
    """Tokens as one line, without [CLS] and with │ for [SEP]."""
    line = Text()
    for token in tokens:
        text = {"[CLS]": "", "[SEP]": " │ "}.get(token.text, token.text.removeprefix("##"))
        if token.answer is None:
            line.append(text)
        elif token.answer == token.text:
            line.append(f"[{text}✓]", "green")
        else:
            line.append(f"[{token.answer.removeprefix('##')}→{text}]", "red")
    return line


def score_rows(summary: Mapping[str, Any]) -> dict[str, str]:
    """Rows of the table of scores: what it is, and the figures that it has to be compared with."""
    rows = {}
    loss, reference = summary["heldout_mlm_loss"], summary["unigram_loss"]
    if isinstance(loss, float):
        rows["held-out masked-token loss"] = f"{loss:.3f} nats"
        if isinstance(reference, float):
            rows["held-out masked-token loss"] += (
                f"; token frequencies alone: {reference:.3f}; learnt from context: "
                f"{reference - loss:.3f}"
            )
    if isinstance(accuracy := summary["heldout_nsp_accuracy"], float):
        rows["held-out next-sentence accuracy"] = f"{accuracy:.1%}; guessing: about 50 %"
    for name, values in summary.items():
        if isinstance(values, dict):  # of a head, by what it was started from
            rows[name.replace("_", " ")] = ", ".join(
                f"{start} {'no test or dev set' if score is None else f'{score:.4f}'}"
                for start, score in values.items()
            )
    return rows


def _show_question(export: Path, console: Console) -> None:
    guesses = ", ".join(f"{word} {share:.0%}" for word, share in best_answers(export, QUESTION, 5))
    console.print(f"{QUESTION}  {guesses}")
