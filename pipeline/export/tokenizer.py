"""The tokenizer of an export: BERT's, after what the cleaning of the corpus folds.

Pretraining sees cleaned text. If the tokenizer folds the same characters, then fine-tuning,
prediction and plain transformers see what pretraining saw, and offsets still count the characters
of the text as it was given.
"""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, normalizers
from transformers import BertTokenizer, PreTrainedTokenizerFast

from pipeline.corpus.cleaning.cleaner import Cleaner, simplify
from pipeline.corpus.records import Drop
from pipeline.corpus.samples.vocabulary import SPECIALS, build_tokenizer, read_vocabulary
from pipeline.errors import VocabularyError
from pipeline.export.character_map import character_map
from pipeline.settings.corpus import STEPS, CleaningSettings

NOT_FOLDED = ("html", "mojibake")
"""Steps of the cleaning that change documents, not characters: a tokenizer can't take them."""
INPUTS = ["input_ids", "token_type_ids", "attention_mask"]
"""What a network of ours reads. transformers 5 leaves token_type_ids out unless they are named."""
SETTINGS = "tokenizer_config.json"
BERT_SETTINGS = ("do_lower_case", "strip_accents", "tokenize_chinese_chars")
"""Those of BERT's normaliser, as `BertTokenizer` calls them."""
KEPT = ("model_max_length", "padding_side", "truncation_side")
"""Settings of a tokenizer that programs obey and that are not in its tokenizer.json."""
PLACEHOLDER = 0x10F000
"""First of the private-use characters that stand for characters of a phrase."""


def export_tokenizer(
    vocab: Path, lowercase: bool, cleaning: CleaningSettings
) -> PreTrainedTokenizerFast:
    """BERT's tokenizer over a vocabulary, with the folding of these settings in front of it.

    Raises:
        VocabularyError: see `read_vocabulary`.
    """
    tokenizer = build_tokenizer(vocab, lowercase)
    folds = _folds(cleaning, tokenizer.normalizer)
    if folds:
        tokenizer.normalizer = normalizers.Sequence([*folds, tokenizer.normalizer])
    return for_transformers(tokenizer)


def for_transformers(tokenizer: Tokenizer, **settings: Any) -> PreTrainedTokenizerFast:
    """A tokenizer as transformers saves and loads it, with BERT's special tokens.

    `BertTokenizer` makes a tokenizer of its own from the vocabulary and the settings. It folds
    nothing, but case and accents as this one does.

    Args:
        settings: of `KEPT`, where they are others than those of an export.
    """
    special = {
        f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=INPUTS,
        **special,
        **_bert_settings(tokenizer),
        **{"model_max_length": 512, **settings},
    )


def _bert_settings(tokenizer: Tokenizer) -> dict[str, Any]:
    """`BERT_SETTINGS` of BERT's normaliser, if there is one."""
    whole = json.loads(tokenizer.to_str())["normalizer"] or {}
    for each in whole.get("normalizers", [whole]):
        if each["type"] == "BertNormalizer":
            values = (each[key] for key in ("lowercase", "strip_accents", "handle_chinese_chars"))
            return dict(zip(BERT_SETTINGS, values, strict=True))
    return {}


def tokenizer_beside(
    source: Path, vocab: Path | None = None
) -> tuple[PreTrainedTokenizerFast, str] | None:
    """The tokenizer that lies in the folder of weights, and its `vocab.txt`; None if none does.

    Args:
        source: a folder, or a file or prefix of a checkpoint in it.
        vocab: a `vocab.txt` to use instead.

    Raises:
        VocabularyError: see `read_vocabulary`; or `tokenizer.json` is no tokenizer of BERT's kind,
            or `tokenizer_config.json` cannot be used.
    """
    folder = source if source.is_dir() else source.parent
    whole, listed = folder / "tokenizer.json", vocab or folder / "vocab.txt"
    if whole.exists() and not vocab:
        tokenizer = _whole_tokenizer(whole)
    elif listed.exists():
        tokenizer = _bert_tokenizer(listed, folder)
    else:
        return None
    known = _settings_in(folder)
    kept = {name: known[name] for name in KEPT if name in known}
    ids = tokenizer.get_vocab()
    listing = sorted(ids, key=ids.__getitem__)
    return for_transformers(tokenizer, **kept), "".join(f"{token}\n" for token in listing)


def _whole_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a tokenizer.json; raises VocabularyError."""
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library has no class for it
        raise VocabularyError(f"{path}: {error}; give a vocab.txt instead") from None
    ids = tokenizer.get_vocab()
    if missing := [token for token in SPECIALS if token not in ids]:
        raise VocabularyError(f"{path}: no {', '.join(missing)}; give a vocab.txt instead")
    if sorted(ids.values()) != list(range(len(ids))):
        raise VocabularyError(f"{path}: its ids have gaps; give a vocab.txt instead")
    return tokenizer


def _bert_tokenizer(vocab: Path, folder: Path) -> Tokenizer:
    """The tokenizer of a vocab.txt with the settings in a folder; raises VocabularyError.

    If the vocab.txt is the vocabulary of the folder, the tokens are added that were added to it
    there. (With a tokenizer.json the class would read that instead.)
    """
    ids, known = read_vocabulary(vocab), _settings_in(folder)
    try:
        if vocab.parent == folder and not (folder / "tokenizer.json").exists():
            return BertTokenizer.from_pretrained(folder, vocab=ids).backend_tokenizer
        settings = {name: known[name] for name in BERT_SETTINGS if name in known}
        return BertTokenizer(vocab=ids, **settings).backend_tokenizer
    except Exception as error:  # transformers and tokenizers have no class for it
        raise VocabularyError(f"{folder / SETTINGS}: {error}; correct or remove it") from None


def _settings_in(folder: Path) -> dict[str, Any]:
    """What the tokenizer_config.json of a folder says, if there is one; raises VocabularyError."""
    path = folder / SETTINGS
    try:
        known = json.loads(path.read_text("utf-8")) if path.exists() else {}
        if not isinstance(known, dict):
            raise ValueError("no mapping")
    except (OSError, ValueError) as error:
        raise VocabularyError(f"{path}: {error}; correct or remove it") from None
    return known


def recorded_cleaning(settings: Sequence[dict[str, Any]]) -> tuple[bool, CleaningSettings]:
    """Lower case and cleaning that all corpora have in common, by the settings in their manifests.

    A step that one corpus did not take is not folded: the network has seen both forms.
    """
    taken = [each.get("cleaning", {}) for each in settings]
    common = {name: bool(taken) and all(each.get(name) is True for each in taken) for name in STEPS}
    lowercase = all(each.get("lowercase", True) for each in settings)
    return lowercase, CleaningSettings.model_validate(common)


def _folds(cleaning: CleaningSettings, bert: Any) -> list[normalizers.Normalizer]:
    """Normalisers that do to a character what the cleaning does, as far as `bert` does not."""
    folds: list[normalizers.Normalizer] = [normalizers.NFKC()] if cleaning.nfkc else []
    replacements: dict[str, str] = {}
    if cleaning.simplify:
        phrases, placeholders = _phrases()
        folds += phrases
        replacements |= placeholders
    removed = ""
    for character, text in _cleaned_characters(cleaning):
        if not text and bert.normalize_str(f"a{character}a") != "aa":
            removed += character
        elif text and bert.normalize_str(character) != bert.normalize_str(text):
            replacements[character] = text
    if replacements:
        folds.append(character_map(replacements))
    if removed:
        folds.append(normalizers.Replace(Regex(f"[{re.escape(removed)}]"), ""))
    return folds


def _cleaned_characters(cleaning: CleaningSettings) -> Iterator[tuple[str, str]]:
    """Each assigned character that the cleaning changes, and what it becomes."""
    apart = "┆"
    characters = [
        character
        for character in map(chr, range(1, 0x110000))
        if character != apart and unicodedata.category(character) not in ("Cn", "Co", "Cs")
    ]
    # NFKC is a normaliser of its own, because it also composes characters.
    leave = dict.fromkeys((*NOT_FOLDED, "nfkc"), False)
    cleaned = Cleaner(cleaning.model_copy(update=leave))(apart.join(characters))
    text = cleaned.text if isinstance(cleaned, Drop) else cleaned
    for before, after in zip(characters, text.split(apart), strict=True):
        if before != after:
            yield before, after


@functools.cache
def _phrases() -> tuple[list[normalizers.Normalizer], dict[str, str]]:
    """OpenCC's phrases, in which a character becomes another one than it becomes alone.

    Returns:
        Normalisers that put a placeholder in place of such a character, and the meaning of the
        placeholders.
    """
    import opencc

    converter = opencc.OpenCC("t2s")
    converter.convert("")  # reads the dictionaries
    phrases = [
        phrase
        for _, _, dictionary in converter.dict_cache.values()
        for phrase in dictionary
        if len(phrase) > 1
    ]
    found: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for phrase in sorted(phrases):
        for place, (character, wanted) in enumerate(zip(phrase, simplify(phrase), strict=True)):
            if simplify(character) != wanted:
                found.setdefault((character, wanted), []).append((phrase, place))
    targets = sorted({wanted for _, wanted in found})
    placeholders = {wanted: chr(PLACEHOLDER + i) for i, wanted in enumerate(targets)}
    forms: dict[str, str] = {}
    for character, wanted in found:
        forms[character] = forms.get(character, character) + placeholders[wanted]

    def pattern(text: str) -> str:
        """The text, whether or not its characters were replaced already."""
        return "".join(f"[{forms.get(character, character)}]" for character in text)

    normalisers: list[normalizers.Normalizer] = []
    for (character, wanted), uses in found.items():
        places = "|".join(
            f"(?<={pattern(phrase[:place])}{character})(?={pattern(phrase[place + 1 :])})"
            for phrase, place in uses
        )
        regex = Regex(f"{character}(?:{places})")
        normalisers.append(normalizers.Replace(regex, placeholders[wanted]))
    return normalisers, {placeholder: wanted for wanted, placeholder in placeholders.items()}
