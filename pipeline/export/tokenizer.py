"""The tokenizer of an export: BERT's, after what the cleaning of the corpus folds.

Pretraining sees cleaned text. If the tokenizer folds the same characters, then fine-tuning,
prediction and plain transformers see what pretraining saw, and offsets still count the characters
of the text as it was given.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, normalizers
from transformers import BertTokenizer, PreTrainedTokenizerFast

from pipeline.corpus.samples.vocabulary import SPECIALS, build_tokenizer, read_vocabulary
from pipeline.errors import VocabularyError
from pipeline.export.folding import folds_of
from pipeline.settings.corpus import STEPS, CleaningSettings

INPUTS = ["input_ids", "token_type_ids", "attention_mask"]
"""What a network of ours reads. transformers 5 leaves token_type_ids out unless they are named."""
SETTINGS = "tokenizer_config.json"
BERT_SETTINGS = ("do_lower_case", "strip_accents", "tokenize_chinese_chars")
"""Those of BERT's normaliser, as `BertTokenizer` calls them."""
KEPT = ("model_max_length", "padding_side", "truncation_side")
"""Settings of a tokenizer that programs obey and that are not in its tokenizer.json."""


def export_tokenizer(
    vocab: str | Path, lowercase: bool, cleaning: CleaningSettings
) -> PreTrainedTokenizerFast:
    """BERT's tokenizer over a vocabulary, with the folding of these settings in front of it.

    Raises:
        VocabularyError: see `read_vocabulary`.
    """
    tokenizer = build_tokenizer(vocab, lowercase)
    folds = folds_of(cleaning, tokenizer.normalizer)
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
