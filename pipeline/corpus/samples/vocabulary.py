"""Reading and checking a vocabulary, and the tokenizer over it."""

import hashlib
import re
from collections import Counter
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from pipeline.errors import VocabularyError
from pipeline.files.storage import read_whole

LINE_END = re.compile(r"\r\n|\r|\n")
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def read_vocabulary(path: str | Path) -> dict[str, int]:
    """Tokens with their ids, which are their line numbers. `path`: of a file, or its URL.

    Raises:
        VocabularyError: the file is missing, is not UTF-8, has duplicates, or lacks special tokens.
        StorageError: no package knows the URL, or the store can't be reached.
    """
    try:
        text = read_whole(str(path)).decode("utf-8-sig")
    except FileNotFoundError:
        raise VocabularyError(
            f"{path}: no such vocabulary; set corpus.vocab to a vocab.txt, or leave it empty to "
            "train one"
        ) from None
    except IsADirectoryError:
        raise VocabularyError(f"{path}: is a folder; name the vocab.txt in it") from None
    except OSError as error:
        raise VocabularyError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise VocabularyError(f"{path}: not UTF-8: {error}; save the file as UTF-8") from None
    tokens = LINE_END.split(text)
    while tokens and not tokens[-1]:
        tokens.pop()
    vocabulary = {token: number for number, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        twice, _ = Counter(tokens).most_common(1)[0]
        raise VocabularyError(
            f"{path}: {twice!r} is on more than one line, so it has no single id; write another "
            "token, such as [unused1000], on all but one of them (without a line, all after it "
            "would get other ids)"
        )
    if missing := [token for token in SPECIALS if token not in vocabulary]:
        raise VocabularyError(
            f"{path}: no {', '.join(missing)}; a BERT vocabulary has all of {', '.join(SPECIALS)}, "
            f"each alone on its line; the first line is {''.join(tokens[:1])!r:.60}"
        )
    return vocabulary


def vocabulary_sha256(path: str | Path) -> str:
    """Hash of the tokens in order; line ends and a byte order mark do not change it.

    Raises:
        VocabularyError: see `read_vocabulary`.
    """
    tokens = "\n".join(read_vocabulary(path))
    return hashlib.sha256(tokens.encode("utf-8")).hexdigest()


def build_tokenizer(path: str | Path, lowercase: bool) -> Tokenizer:
    """BERT's tokenizer over a vocabulary. Shards hold its ids, and an export contains it.

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
