"""The vocabulary and its tokenizer: reading, checking, training."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from pipeline.corpus.records import Document
from pipeline.corpus.samples.encoder import Scanner
from pipeline.corpus.text.cleaning import Cleaner
from pipeline.corpus.text.parsing import documents
from pipeline.corpus.text.reading import Chunk, read_unit
from pipeline.corpus.text.sources import Unit, list_sources, plan_units
from pipeline.errors import CorpusError, VocabularyError
from pipeline.settings.corpus import CorpusSettings

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LETTERS_SHARE = 0.15
"""Share of the vocabulary that is kept for pieces of words in letters and digits."""
TRAINING_BYTES = 2e9
"""Input that a vocabulary is trained on at most, in units spread evenly over the corpus."""


def read_vocabulary(path: str | Path) -> dict[str, int]:
    """Tokens with their ids, which are their line numbers.

    Raises:
        VocabularyError: missing, not UTF-8, with duplicates or without the special tokens.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError:
        raise VocabularyError(
            f"{path}: no such vocabulary; set corpus.vocab to a vocab.txt, or leave it empty to "
            "have one trained"
        ) from None
    except UnicodeDecodeError as error:
        raise VocabularyError(f"{path}: not UTF-8: {error}") from None
    tokens = [line.rstrip("\r") for line in lines]
    while tokens and not tokens[-1]:
        tokens.pop()
    vocabulary = {token: number for number, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        twice, _ = Counter(tokens).most_common(1)[0]
        raise VocabularyError(
            f"{path}: {twice!r} stands on more than one line; ids would be unclear"
        )
    if missing := [token for token in SPECIALS if token not in vocabulary]:
        raise VocabularyError(
            f"{path}: no {', '.join(missing)}; a BERT vocabulary has all of {', '.join(SPECIALS)}"
        )
    return vocabulary


def vocabulary_sha256(path: str | Path) -> str:
    """Digest of the tokens in order: line ends and a byte order mark make no other vocabulary."""
    tokens = "\n".join(read_vocabulary(path))
    return hashlib.sha256(tokens.encode("utf-8")).hexdigest()


def build_tokenizer(path: str | Path, lowercase: bool) -> Tokenizer:
    """BERT's tokenizer over a vocabulary: shards hold its ids, an export carries it.

    Raises:
        VocabularyError: see `read_vocabulary`.
    """
    vocabulary = read_vocabulary(path)
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer.add_special_tokens(list(SPECIALS))
    return tokenizer


def train_vocabulary(settings: CorpusSettings, path: str | Path) -> dict[str, int]:
    """Train a WordPiece vocabulary of `vocab_size` on the inputs and write it, one token a line.

    Han characters and punctuation are tokens by themselves, the most frequent ones; pieces of other
    words are trained by `tokenizers`. The same inputs and settings give the same file; one that is
    there already, made from them, is kept.

    Raises:
        CorpusError: no input, or no text in it.
    """
    path = Path(path)
    sources = list_sources(settings.inputs, settings)
    origin = _origin(settings, [source.signature for source in sources])
    note = path.with_suffix(".origin.json")
    if path.exists() and note.exists():
        written = json.loads(note.read_text(encoding="utf-8"))
        if written == {"origin": origin, "sha256": vocabulary_sha256(path)}:
            return read_vocabulary(path)
    units = _spread(plan_units(sources, settings))
    characters, words = count_tokens(units, settings)
    if not characters and not words:
        raise CorpusError(f"corpus.inputs: {', '.join(settings.inputs)}: no text to train on")
    tokens = compose_vocabulary(characters, words, settings.vocab_size)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text("\n".join(tokens) + "\n", encoding="utf-8")
    temporary.rename(path)
    note.write_text(json.dumps({"origin": origin, "sha256": vocabulary_sha256(path)}))
    return read_vocabulary(path)


def compose_vocabulary(characters: Counter[str], words: Counter[str], vocab_size: int) -> list[str]:
    """The tokens, in order of their ids: special ones, characters by frequency, word pieces.

    `characters` stand alone (Han, punctuation), `words` are all others, both as normalised.
    """
    room = vocab_size - len(SPECIALS)
    letters = sorted({character for word in words for character in word})
    pieces_wanted = min(int(room * LETTERS_SHARE), 2 * len(letters) + len(words))
    ranked = sorted(characters.items(), key=lambda item: (-item[1], item[0]))
    # Of characters seen once the model learns nothing: they are [UNK], if there are others at all.
    chosen = [character for character, count in ranked if count > 1 or len(ranked) < room // 2]
    chosen = chosen[: room - pieces_wanted]
    pieces = train_pieces(words, room - len(chosen))
    return [*SPECIALS, *chosen, *(piece for piece in pieces if piece not in set(chosen))]


def train_pieces(words: Counter[str], size: int) -> list[str]:
    """WordPiece tokens of at most `size` for words with their counts."""
    frequency: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            frequency[character] += count
    ranked = sorted(frequency, key=lambda character: (-frequency[character], character))
    letters = set(ranked[: size // 2])
    # Handing in the ## alphabet keeps the trainer from numbering it in hash order, which changes
    # from process to process and decides ties.
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


def count_tokens(
    units: Iterable[Unit], settings: CorpusSettings
) -> tuple[Counter[str], Counter[str]]:
    """Counts of characters that stand alone, and of all other words, in cleaned text."""
    scanner = Scanner(
        normalizers.BertNormalizer(lowercase=settings.lowercase), pre_tokenizers.BertPreTokenizer()
    )
    cleaner = Cleaner(settings.cleaning)
    codes = np.zeros(0x110000, np.int64)
    runs: Counter[str] = Counter()
    for unit in units:
        for chunk in read_unit(unit, settings):
            if isinstance(chunk, Chunk):
                for text in _texts(chunk, settings, cleaner):
                    scan = scanner.scan(text)
                    codes += np.bincount(scan.codes[scan.alone], minlength=len(codes))
                    runs.update(scan.runs(scan.run_bounds()))
    characters: Counter[str] = Counter()
    words: Counter[str] = Counter()
    for code in np.flatnonzero(codes).tolist():
        for piece in scanner.pieces(chr(code)):
            characters[piece] += int(codes[code])
    for run, count in runs.items():
        for piece in scanner.pieces(run):
            words[piece] += count
    return characters, words


def _texts(chunk: Chunk, settings: CorpusSettings, cleaner: Cleaner) -> Iterable[str]:
    """Cleaned text of a chunk in stretches of a million characters, which table look-ups like."""
    held: list[str] = []
    size = 0
    for block in chunk.blocks:
        for document in documents(block, settings.text_field):
            text = cleaner(document.text) if isinstance(document, Document) else None
            if isinstance(text, str):
                held.append(text)
                size += len(text)
            if size > 1_000_000:
                yield "\n".join(held)
                held, size = [], 0
    yield "\n".join(held)


def _spread(units: list[Unit]) -> list[Unit]:
    """All units, or of a big corpus every n-th."""
    total = sum(unit.bytes for unit in units)
    return units[:: max(1, round(total / TRAINING_BYTES))]


def _origin(settings: CorpusSettings, signatures: list[str]) -> str:
    names = {"format", "text_field", "encoding", "vocab_size", "lowercase", "cleaning"}
    made_from = {
        "inputs": signatures,
        "settings": settings.model_dump(mode="json", include=names),
    }
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
