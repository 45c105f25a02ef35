"""Samples as coloured text: words, masks and replacements."""

from collections.abc import Sequence

from rich.text import Text

from pipeline.corpus.records import Masks, Pairs
from pipeline.corpus.samples.masks import Maskable
from pipeline.corpus.samples.pairs import CONTINUATION, OTHER

LEGEND = Text.assemble(
    "spaces separate words; what is to be predicted stands in brackets: ",
    ("[原]", "bold red"),
    " shown as [MASK], ",
    ("[原→随]", "bold yellow"),
    " shown as a random token, ",
    ("[原→原]", "bold green"),
    " shown as it is",
)


def show_sample(
    pairs: Pairs,
    masks: Masks,
    row: int,
    number: int,
    tokens: Sequence[str],
    vocabulary: Maskable,
    place: str,
) -> Text:
    """One sample as coloured text.

    Args:
        pairs, masks: samples and their masks; `row` is the index of the sample in both.
        number: its number in the corpus, for the heading.
        tokens: the vocabulary, by id.
        place: file and byte of the document that A comes from, for the heading.
    """
    begin, end = pairs.offsets[row : row + 2].tolist()
    b = int(pairs.segment_b_start[row])
    has_b = b < end - begin
    chosen = slice(*masks.offsets[row : row + 2])
    seen = dict(zip(masks.positions[chosen].tolist(), masks.ids[chosen].tolist(), strict=True))
    label = {CONTINUATION: "B continues A", OTHER: "B is random or swapped"}
    text = Text.assemble(
        (f"sample {number}", "bold"),
        f" · document {int(pairs.documents[row]):016x}, {place}",
        f" · {end - begin} tokens, {len(seen)} masked · ",
        label.get(int(pairs.next_sentence_label[row]), "no B, no label"),
    )
    segments = [("A", 1, b - 1)] + ([("B", b, end - begin - 1)] if has_b else [])
    for name, first, last in segments:
        text.append(f"\n  {name} ", style="bold")
        for position in range(first, last):
            original = int(pairs.input_ids[begin + position])
            if pairs.word_starts[begin + position] and position > first:
                text.append(" ")
            text.append_text(_token(original, seen.get(position), tokens, vocabulary))
    return text


def _token(original: int, seen: int | None, tokens: Sequence[str], vocabulary: Maskable) -> Text:
    word = tokens[original].removeprefix("##")
    if seen is None:
        return Text(word, style="dim" if original in vocabulary.special_ids else "")
    if seen == vocabulary.mask_id:
        return Text(f"[{word}]", style="bold red")
    shown = f"[{word}→{tokens[seen].removeprefix('##')}]"
    return Text(shown, style="bold green" if seen == original else "bold yellow")
