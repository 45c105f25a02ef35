"""Sentences to samples `[CLS] A [SEP] B [SEP]`, as BERT's create_pretraining_data makes them."""

from bisect import bisect_left, bisect_right
from random import Random

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.arrays import offsets_of, ranges
from pipeline.corpus.records import Pairs, Sentences
from pipeline.settings.corpus import PairSettings

CONTINUATION, OTHER, NO_LABEL = 0, 1, 255
"""Next-sentence labels: B continues A; B is random or was swapped with A; there is no B."""


def build_pairs(
    sentences: Sentences,
    settings: PairSettings,
    sequence_length: int,
    cls_id: int,
    sep_id: int,
    seed: int,
) -> Pairs:
    """Pack the sentences of each document into samples of at most `sequence_length` tokens.

    A sample takes sentences up to its target length and divides them at random into A and B. With
    probability `random_share`, B is taken from another document instead, and the sentences meant
    for B are used for the next sample. A sample that is too long loses tokens of its longer
    segment, at the front or back with equal probability. A single sentence always gets a random
    partner, as in BERT; if there is no other document, it is divided in two at a word. The task
    `sop` swaps A and B instead. Under `none` a sample is a sequence of whole sentences,
    `[CLS] A [SEP]`, without label.

    Sentences longer than a sample are cut at words first. Each document is used `dupe_factor`
    times; `truncated_tokens` counts what truncation lost.
    """
    room = room_for_text(settings, sequence_length)
    # Half, because a pair has two segments: two that fill the room would lose every second token.
    size = room if settings.task == "none" else (room + 1) // 2
    text = _split_long(_without_empty(sentences), room, size)
    chosen: list[int] = []
    for turn in range(settings.dupe_factor):
        chosen += _choose_segments(text, settings, room, Random(f"pairs {seed} {turn}"))
    return _assemble(text, np.array(chosen, np.int64).reshape(-1, 6), cls_id, sep_id)


def room_for_text(settings: PairSettings, sequence_length: int) -> int:
    """Tokens of a sample beside its special ones, at most."""
    return sequence_length - (2 if settings.task == "none" else 3)


def truncated_tokens(sentences: Sentences, pairs: Pairs, settings: PairSettings) -> int:
    """Tokens that should be in a sample, once for each pass over the text, and are in none.

    A and a B that continues it use up text; a random B repeats text of another document.
    """
    ends = np.diff(pairs.offsets)
    has_b = pairs.segment_b_start < ends
    in_a = pairs.segment_b_start - 2
    in_b = np.where(has_b, ends - pairs.segment_b_start - 1, 0)
    if settings.task == "nsp":
        in_b = in_b[pairs.next_sentence_label == CONTINUATION]
    return int(len(sentences.ids) * settings.dupe_factor - in_a.sum() - in_b.sum())


def _without_empty(sentences: Sentences) -> Sentences:
    """Drop sentences without tokens, then documents without sentences."""
    filled = np.diff(sentences.sentence_offsets) > 0
    before = offsets_of(filled)[sentences.document_offsets]
    counts = np.diff(before)
    return sentences._replace(
        sentence_offsets=np.append(sentences.sentence_offsets[:-1][filled], len(sentences.ids)),
        document_offsets=offsets_of(counts[counts > 0]),
        documents=sentences.documents[counts > 0],
    )


def _split_long(sentences: Sentences, room: int, size: int) -> Sentences:
    """Cut sentences of more than `room` tokens into sentences of about `size` tokens.

    A cut is at the first word at or after `size`, or else at the last word before it, or else
    anywhere.
    """
    long = np.flatnonzero(np.diff(sentences.sentence_offsets) > room)
    cuts: list[int] = []
    for at, end in zip(
        sentences.sentence_offsets[long].tolist(),
        sentences.sentence_offsets[long + 1].tolist(),
        strict=True,
    ):
        words = (np.flatnonzero(sentences.word_starts[at:end]) + at).tolist()
        while end - at > room:
            word = bisect_left(words, at + size)
            if word == len(words) or words[word] > at + room:
                word -= 1
            at = words[word] if words[word] > at else at + room
            cuts.append(at)
    offsets = np.sort(np.append(sentences.sentence_offsets, np.array(cuts, np.int64)))
    in_documents = sentences.sentence_offsets[sentences.document_offsets]
    return sentences._replace(
        sentence_offsets=offsets, document_offsets=np.searchsorted(offsets, in_documents)
    )


class _Partners:
    """Draws a document other than a given one.

    Documents are sorted by number, so equal numbers are neighbours and can be skipped.
    """

    def __init__(self, documents: NDArray[np.uint64]) -> None:
        _, which, counts = np.unique(documents, return_inverse=True, return_counts=True)
        self.by_number: list[int] = np.argsort(documents, kind="stable").tolist()
        # For each document, the first place in `by_number` that has its number, and how many have
        # it: one, unless the document was cut.
        self.first: list[int] = offsets_of(counts)[which].tolist()
        self.same: list[int] = counts[which].tolist()

    def other(self, document: int, share: float) -> int:
        """The document that comes after this share (0 … 1) of all others."""
        place = int(share * (len(self.by_number) - self.same[document]))
        return self.by_number[
            place + self.same[document] if place >= self.first[document] else place
        ]


def _choose_segments(
    text: Sentences, settings: PairSettings, room: int, random: Random
) -> list[int]:
    """Six numbers for each sample: token bounds of A, token bounds of B, label, document.

    Each step depends on the one before, so this is plain Python. It works on lengths only and takes
    a few microseconds a sample.
    """
    bounds = text.sentence_offsets.tolist()
    documents = text.document_offsets.tolist()
    partners = _Partners(text.documents)
    share = random.random
    chosen: list[int] = []
    for document in range(len(documents) - 1):
        at, last = documents[document], documents[document + 1]
        has_other = partners.same[document] < len(partners.by_number)
        while at < last:
            target = random.randint(2, room) if share() < settings.short_share else room
            a0 = bounds[at]
            if settings.task == "none":
                at = max(at + 1, bisect_right(bounds, a0 + target, at + 1, last + 1) - 1)
                chosen += (a0, bounds[at], 0, 0, NO_LABEL, document)
                continue
            end = bisect_left(bounds, a0 + target, at + 1, last)
            single = end == at + 1
            middle = end if single else at + 1 + int(share() * (end - at - 1))
            a1, label = bounds[middle], CONTINUATION
            is_other = share() < settings.random_share
            if (
                settings.task == "nsp"
                and has_other
                and (is_other or (single and settings.random_share))
            ):
                other = partners.other(document, share())
                b, b_last = documents[other], documents[other + 1]
                b += int(share() * (b_last - b))
                b0 = bounds[b]
                b1 = bounds[bisect_left(bounds, b0 + max(1, target - (a1 - a0)), b + 1, b_last)]
                at, label = middle, OTHER
            else:
                if single:
                    a1 = _middle_word(text.word_starts, a0, a1)
                b0, b1 = a1, bounds[end]
                at = end
                if b0 == b1:
                    label = NO_LABEL
                elif settings.task == "sop" and is_other:
                    a0, a1, b0, b1, label = b0, b1, a0, a1, OTHER
            chosen += (*_truncate(a0, a1, b0, b1, room, random), label, document)
    return chosen


def _middle_word(word_starts: NDArray[np.bool_], first: int, last: int) -> int:
    """The word nearest the middle of the tokens [first, last), where they are divided, or last."""
    words = np.flatnonzero(word_starts[first + 1 : last]) + first + 1
    return int(words[np.abs(2 * words - first - last).argmin()]) if len(words) else last


def _truncate(
    a0: int, a1: int, b0: int, b1: int, room: int, random: Random
) -> tuple[int, int, int, int]:
    """BERT's truncate_seq_pair: remove tokens of the longer segment one by one, front or back."""
    a, b = a1 - a0, b1 - b0
    if a + b <= room:
        return a0, a1, b0, b1
    half = room // 2
    kept_a = room - b if b <= half else min(a, room - half)
    kept_b = room - kept_a
    cut_a, cut_b = a - kept_a, b - kept_b
    front_a = random.getrandbits(cut_a).bit_count()
    front_b = random.getrandbits(cut_b).bit_count()
    return a0 + front_a, a1 - cut_a + front_a, b0 + front_b, b1 - cut_b + front_b


def _assemble(text: Sentences, chosen: NDArray[np.int64], cls_id: int, sep_id: int) -> Pairs:
    """Samples from the [N, 6] numbers of `_choose_segments`."""
    a0, a1, b0, b1, label, document = chosen.T
    cls_at, sep_at = len(text.ids), len(text.ids) + 1
    one, has_b = np.ones_like(a0), (b1 > b0).astype(np.int64)
    starts = np.stack([cls_at * one, a0, sep_at * one, b0, sep_at * one], axis=1)
    lengths = np.stack([one, a1 - a0, one, b1 - b0, has_b], axis=1)
    source = ranges(starts.ravel(), lengths.ravel())
    offsets = offsets_of(lengths.sum(axis=1))
    segment_b_start = a1 - a0 + 2
    word_starts = np.append(text.word_starts, [True, True])[source]
    # Truncation may leave the rest of a word at the front of a segment: there it counts as a word.
    word_starts[offsets[:-1] + 1] = True
    word_starts[(offsets[:-1] + segment_b_start)[has_b > 0]] = True
    return Pairs(
        np.append(text.ids, [cls_id, sep_id]).astype(np.int32)[source],
        word_starts,
        offsets,
        segment_b_start,
        label.astype(np.uint8),
        text.documents[document],
    )
