"""The documents of a chunk to samples: sentences, words, token ids, pairs, masks."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from pipeline.corpus.arrays import offsets_of
from pipeline.corpus.randomness import key_of
from pipeline.corpus.records import Document, Masks, Pairs, Sentences, batches
from pipeline.corpus.samples.encoder import Encoder
from pipeline.corpus.samples.masks import Maskable, whole_word_masks
from pipeline.corpus.samples.measuring import measure
from pipeline.corpus.samples.pairs import build_pairs, room_for_text, truncated_tokens
from pipeline.corpus.samples.segmentation import load_segmenter, word_boundaries
from pipeline.corpus.samples.sentences import sentence_ends
from pipeline.corpus.samples.vocabulary import SPECIALS
from pipeline.settings.corpus import CorpusSettings

BATCH_CHARACTERS = 1 << 18
"""Characters that are segmented and encoded at a time: few enough for the CPU's cache."""
PAIRS, MASKS = 1, 2
"""Numbers of the two random streams of a chunk: for pairs, and for masks."""


class Samples(NamedTuple):
    """The samples of a chunk."""

    pairs: Pairs
    masks: Masks | None
    """None if the feed is to draw them."""
    counts: Counter[str]
    """Documents, characters, words, tokens … by name."""
    unknown: Counter[str]
    """Characters that became [UNK], with their numbers."""
    measured: Counter[str]
    """See `measure`."""


def make_samples(
    documents: Iterable[Document],
    encoder: Encoder,
    settings: CorpusSettings,
    seed: int,
    unit: int,
    chunk: int,
) -> Samples:
    """Make the samples of a chunk from its cleaned documents.

    All random choices depend on the seed and on the numbers of the unit and the chunk.
    """
    pairs_seed, masks_seed = (int(key_of(seed, stream, unit, chunk)) for stream in (PAIRS, MASKS))
    counts: Counter[str] = Counter()
    unknown: Counter[str] = Counter()
    vocabulary = encoder.vocabulary
    sentences = tokenize(documents, encoder, settings, counts, unknown)
    pairs = build_pairs(
        sentences,
        settings.pairs,
        settings.sequence_length,
        vocabulary["[CLS]"],
        vocabulary["[SEP]"],
        pairs_seed,
    )
    counts["truncated_tokens"] = truncated_tokens(sentences, pairs, settings.pairs)
    counts["samples"] = len(pairs.documents)
    if settings.pairs.task == "nsp" and len(np.unique(sentences.documents)) == 1:
        counts["documents_without_partner"] = 1
    maskable = Maskable(
        vocabulary["[MASK]"], len(vocabulary), tuple(vocabulary[token] for token in SPECIALS)
    )
    masks = None
    if settings.masking.mode == "static":
        masks = whole_word_masks(pairs, settings.masking, maskable, masks_seed)
    measured = measure(pairs, settings.masking, maskable, masks_seed)
    return Samples(pairs, masks, counts, unknown, measured)


def tokenize(
    documents: Iterable[Document],
    encoder: Encoder,
    settings: CorpusSettings,
    counts: Counter[str],
    unknown: Counter[str],
) -> Sentences:
    """Cut documents into sentences and encode them; adds to `counts` and `unknown`."""
    segmenter = load_segmenter(settings.segmenter, settings.user_dictionary)
    limit = settings.sequence_length
    if settings.pairs.task == "none":
        # What a sample has no room for would be a sample of a few tokens.
        limit = room_for_text(settings.pairs, limit)
    ids, starts, lengths, per_document, numbers = [], [], [], [], []
    for batch in batches(documents, lambda document: len(document.text), BATCH_CHARACTERS):
        # A document ends its line, so that neither words nor spans go on into the next one.
        texts = [document.text + "\n" for document in batch]
        text = "".join(texts)
        counts["documents"] += len(texts)
        counts["characters"] += len(text) - len(texts)
        ends: list[int] = []
        begin = 0
        for each in texts:
            found = sentence_ends(each, limit)
            ends.extend([begin + end for end in found])
            per_document.append(len(found))
            begin += len(each)
        encoded = encoder.encode(text, word_boundaries(text, segmenter), np.array(ends))
        ids.append(encoded.ids)
        starts.append(encoded.word_starts)
        lengths.append(np.diff(encoded.offsets))
        unknown.update(encoded.unknown)
        numbers.extend([document.number for document in batch])
    result = Sentences(
        ids=np.concatenate([np.zeros(0, np.int32), *ids]),
        word_starts=np.concatenate([np.zeros(0, np.bool_), *starts]),
        sentence_offsets=offsets_of(np.concatenate([np.zeros(0, np.int64), *lengths])),
        document_offsets=offsets_of(np.array(per_document, np.int64)),
        documents=np.array(numbers, np.uint64),
    )
    counts["tokens"] = len(result.ids)
    counts["words"] = int(result.word_starts.sum())
    counts["sentences"] = int(np.count_nonzero(np.diff(result.sentence_offsets)))
    counts["unknown_tokens"] = int(np.count_nonzero(result.ids == encoder.vocabulary["[UNK]"]))
    return result
