"""The cleaning of a corpus as normalisers of a tokenizer, as far as it changes characters."""

import functools
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

from tokenizers import Regex, normalizers

from pipeline.corpus.cleaning.cleaner import Cleaner, simplify
from pipeline.corpus.records import Drop
from pipeline.export.character_map import character_map
from pipeline.export.lineage import NOT_FOLDED
from pipeline.settings.corpus import CleaningSettings

PLACEHOLDER = 0x10F000
"""First of the private-use characters that stand for characters of a phrase."""


def folds_of(cleaning: CleaningSettings, bert: Any) -> list[normalizers.Normalizer]:
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
