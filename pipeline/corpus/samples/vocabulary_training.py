"""Training a WordPiece vocabulary on the input text."""

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from pipeline.corpus.characters import Scanner
from pipeline.corpus.cleaning.cleaner import Cleaner
from pipeline.corpus.cleaning.quality import content_hashes
from pipeline.corpus.records import Document, Drop, batches
from pipeline.corpus.samples.vocabulary import SPECIALS, read_vocabulary, vocabulary_sha256
from pipeline.corpus.text.parsing import clean_documents, fault
from pipeline.corpus.text.reading import Chunk, read_unit
from pipeline.corpus.text.sources import Source
from pipeline.corpus.text.units import EXPANSION, Unit, plan_units
from pipeline.errors import CorpusError, VocabularyError
from pipeline.files.hashing import hash_of
from pipeline.files.storage import write_json, write_whole
from pipeline.progress import Progress
from pipeline.settings.corpus import CorpusSettings

LETTERS_SHARE = 0.15
"""Share of the vocabulary that is kept for pieces of words in letters and digits."""
TRAINING_BYTES = 2e9
"""Bytes of text that are counted at most, about; they are spread over the corpus."""
SKIPPED_CHUNKS = 8
"""Of a stream, which can only be read from its start, one chunk in up to so many is counted: more
would be decompressed for nothing."""
COUNTED_CHARACTERS = 1_000_000
"""Characters that are counted at a time, so that table look-ups pay."""


def train_vocabulary(
    settings: CorpusSettings, path: str | Path, sources: Sequence[Source], progress: Progress
) -> dict[str, int]:
    """Train a WordPiece vocabulary of `vocab_size` and write it, one token a line.

    The most frequent Han characters and punctuation marks are single tokens; the pieces of other
    words are trained by `tokenizers`. The same inputs and settings give the same file. A file that
    was made from them before is kept.

    Args:
        sources: the signed inputs.

    Raises:
        CorpusError: the inputs hold no text.
        VocabularyError: see `check_own`.
    """
    path = Path(path)
    origin = _origin(settings, sources)
    if check_own(path) == origin:
        return read_vocabulary(path)
    units = plan_units(sources, settings)
    drops: Counter[str] = Counter()
    first: list[str] = []

    def note(drop: Drop) -> None:
        drops[drop.reason] += 1
        if not first:
            first.append(f"; the first one is {drop.place}: {fault(drop, settings.text_field)}")

    chunks = sampled_chunks(units, settings, progress, note)
    characters, words = count_tokens(_texts(chunks, settings, note), settings.lowercase)
    if not characters and not words:
        raise CorpusError(
            f"corpus.inputs: {', '.join(settings.inputs)}: no text to train a vocabulary on; "
            f"dropped: {dict(drops)}{''.join(first)}; check corpus.format, corpus.text_field, "
            "corpus.encoding and corpus.cleaning"
        )
    tokens = compose_vocabulary(characters, words, settings.vocab_size)
    # In this order, a command that is stopped between the two leaves no file without a note.
    sha256 = hashlib.sha256("\n".join(tokens).encode()).hexdigest()
    write_json(note_of(path), {"origin": origin, "sha256": sha256})
    write_whole(path, ("\n".join(tokens) + "\n").encode())
    return read_vocabulary(path)


def is_trained(settings: CorpusSettings, path: str | Path, sources: Sequence[Source]) -> bool:
    """Whether `train_vocabulary` would keep the file that is there."""
    return check_own(path) == _origin(settings, sources)


def check_own(path: str | Path) -> str:
    """What a vocabulary was trained from, by the note beside it.

    Empty if there is no file, or if it was changed since: then it is to be trained again.

    Raises:
        VocabularyError: the file has no note, so it is not ours and must not be overwritten.
    """
    if not Path(path).exists():
        return ""
    try:
        written = json.loads(Path(note_of(path)).read_text(encoding="utf-8"))
        origin, sha256 = written["origin"], written["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        raise VocabularyError(
            f"{path}: there is a vocabulary that was not trained here; set corpus.vocab to use it, "
            "or move it away to train one"
        ) from None
    try:
        return origin if sha256 == vocabulary_sha256(path) else ""
    except VocabularyError:
        return ""


def note_of(path: str | Path) -> str:
    """Path of the file that says what a vocabulary was trained from."""
    return f"{os.path.splitext(path)[0]}.origin.json"


def compose_vocabulary(characters: Counter[str], words: Counter[str], vocab_size: int) -> list[str]:
    """The tokens in order of their ids: special ones, characters by frequency, word pieces.

    Args:
        characters: counts of characters that are words by themselves: Han and punctuation.
        words: counts of all other words. Both are normalised as the tokenizer does it.
    """
    room = vocab_size - len(SPECIALS)
    letters = {character for word in words for character in word}
    pieces_wanted = min(int(room * LETTERS_SHARE), 2 * len(letters) + len(words))
    ranked = sorted(characters.items(), key=lambda item: (-item[1], item[0]))
    # A model learns nothing about a character that was seen once: it becomes [UNK] unless most of
    # the vocabulary would stay empty.
    chosen = [character for character, count in ranked if count > 1 or len(ranked) < room // 2]
    chosen = chosen[: room - pieces_wanted]
    pieces = train_pieces(words, room - len(chosen))
    return [*SPECIALS, *dict.fromkeys([*chosen, *pieces])]


def train_pieces(words: Counter[str], size: int) -> list[str]:
    """At most `size` WordPiece tokens for words with their counts."""
    frequency: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            frequency[character] += count
    ranked = sorted(frequency, key=lambda character: (-frequency[character], character))
    letters = set(ranked[: size // 2])
    # The trainer would number the ## alphabet in hash order, which differs between processes and
    # decides ties. It keeps the order of special tokens.
    alphabet = [form for letter in sorted(letters) for form in (letter, f"##{letter}")]
    trainer = trainers.WordPieceTrainer(
        vocab_size=size, min_frequency=2, special_tokens=alphabet, show_progress=False
    )
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    usable = {word: count for word, count in words.items() if letters.issuperset(word)}
    scale = max(1, sum(usable.values()) // 5_000_000)
    repeated = (word for word, count in sorted(usable.items()) for _ in range(-(-count // scale)))
    tokenizer.train_from_iterator(repeated, trainer)
    vocabulary = tokenizer.get_vocab()
    return sorted(vocabulary, key=vocabulary.__getitem__)[:size]


def sampled_chunks(
    units: Sequence[Unit],
    settings: CorpusSettings,
    progress: Progress,
    note: Callable[[Drop], object],
) -> Iterator[Chunk]:
    """Chunks with about `TRAINING_BYTES` of text in all, spread over the units; reports progress.

    Of units that are read in one piece every n-th is taken. Of each stream a part is taken, which
    begins at its start. `note` receives the drops of files that can't be read.
    """
    total = sum(_expected_bytes(unit) for unit in units)
    step = max(1, math.ceil(total / TRAINING_BYTES))
    wanted, counted = min(total, TRAINING_BYTES), 0
    whole = [unit for unit in units if not unit.stream][::step]
    for unit in (*whole, *(unit for unit in units if unit.stream)):
        quota = _expected_bytes(unit) / step if step > 1 else math.inf
        of_unit = 0
        for chunk in read_unit(unit, settings):
            if not isinstance(chunk, Chunk):
                for drop in chunk.damage:
                    note(drop)
                continue
            if unit.stream and chunk.number % min(step, SKIPPED_CHUNKS):
                continue
            yield chunk
            size = sum(block.size for block in chunk.blocks)
            of_unit += size
            counted += size
            progress.update(f"counted {counted / 1e6:,.0f} of {wanted / 1e6:,.0f} MB of text")
            if unit.stream and of_unit >= quota:
                break


def _expected_bytes(unit: Unit) -> int:
    """Bytes of text, by the size on disk."""
    return sum(each.size * (EXPANSION if each.source.compression else 1) for each in unit.ranges)


def count_tokens(texts: Iterable[str], lowercase: bool) -> tuple[Counter[str], Counter[str]]:
    """Counts of single characters and of all other words in cleaned texts, both normalised."""
    scanner = Scanner(
        normalizers.BertNormalizer(lowercase=lowercase), pre_tokenizers.BertPreTokenizer()
    )
    codes = np.zeros(0x110000, np.int64)
    spans: Counter[str] = Counter()
    for batch in batches(texts, len, COUNTED_CHARACTERS):
        scan = scanner.scan("\n".join(batch))
        codes += np.bincount(scan.codes[scan.single], minlength=len(codes))
        spans.update(scan.spans(scan.span_bounds()))
    singles = {chr(code): int(codes[code]) for code in np.flatnonzero(codes).tolist()}
    return _normalised(singles, scanner), _normalised(spans, scanner)


def _normalised(counts: Mapping[str, int], scanner: Scanner) -> Counter[str]:
    """Counts of the words that WordPiece receives for these texts."""
    words: Counter[str] = Counter()
    for text, count in counts.items():
        for word in scanner.words(text):
            words[word] += count
    return words


def _texts(
    chunks: Iterable[Chunk], settings: CorpusSettings, note: Callable[[Drop], object]
) -> Iterator[str]:
    """The cleaned documents of chunks."""
    cleaner = Cleaner(settings.cleaning)
    for chunk in chunks:
        for record in clean_documents(chunk.blocks, settings.text_field, cleaner):
            if isinstance(record, Document):
                yield record.text
            else:
                note(record)


def _origin(settings: CorpusSettings, sources: Sequence[Source]) -> str:
    """Hash of all that the vocabulary depends on."""
    names = {"format", "text_field", "encoding", "vocab_size", "lowercase", "cleaning"}
    made_from = {
        "inputs": [source.signature for source in sources],
        "quality": content_hashes(settings.cleaning),
        "settings": settings.model_dump(mode="json", include=names),
    }
    return hash_of(made_from)
