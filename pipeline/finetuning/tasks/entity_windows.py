"""Words of a sentence as tokens, in windows that the network can take."""

from collections.abc import Iterable, Sequence

from transformers import PreTrainedTokenizerBase

from pipeline.finetuning.examples.features import Feature, Tokens
from pipeline.finetuning.examples.jsonl import Example
from pipeline.finetuning.tasks.base import TaskSetup
from pipeline.labels import IGNORED


def count_words(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """How many words the tokenizer sees in each different text."""
    different = sorted({*texts})
    encoded = tokenizer(different or [""], add_special_tokens=False)
    return {text: len({*encoded.word_ids(i)}) for i, text in enumerate(different)}


def pieces_of(examples: Sequence[Example], setup: TaskSetup) -> dict[str, list[int]]:
    """Token ids of each word that occurs."""
    words = sorted({word for example in examples for word in example["tokens"]})
    ids = setup.tokenizer(words, add_special_tokens=False)["input_ids"] if words else []
    return dict(zip(words, ids, strict=True))


def feature_of(
    example: int,
    words: Sequence[str],
    labels: Sequence[int],
    pieces: dict[str, list[int]],
    window: range,
    setup: TaskSetup,
) -> Feature:
    """The tokens of a window of words, with [CLS] and [SEP].

    Args:
        example: number of the example.
        words: all words of the example.
        labels: number of the label of each word; empty if they are to be predicted.
        pieces: token ids of each word. A word of more pieces than fit is cut.
        window: which words.
        setup: tokenizer and length.
    """
    ids, origin, target = [setup.tokenizer.cls_token_id], [(-1, -1)], [IGNORED]
    for word in window:
        for place, piece in enumerate(pieces[words[word]][: setup.length - 2]):
            ids.append(piece)
            origin.append((-1, -1) if place else (word, word + 1))
            target.append(IGNORED if place or not labels else labels[word])
    ids.append(setup.tokenizer.sep_token_id)
    origin.append((-1, -1))
    target.append(IGNORED)
    return Feature(example, [Tokens(ids, [0] * len(ids))], target, origin)


def windows_of(sizes: Sequence[int], room: int, stride: int) -> list[range]:
    """Ranges of words, of these numbers of pieces, with at most `room` pieces in each.

    A range begins with the last words of the one before, which have at most `stride` pieces, as
    long as it then holds another word.
    """
    fitting = [min(size, room) for size in sizes]
    windows, start, used = [], 0, 0
    for word, size in enumerate(fitting):
        if used + size > room:
            windows.append(range(start, word))
            start, used = word, 0
            while (
                used + fitting[start - 1] <= min(stride, room - size) and start - 1 > windows[-1][0]
            ):
                start -= 1
                used += fitting[start]
        used += size
    return [*windows, range(start, len(fitting))]
