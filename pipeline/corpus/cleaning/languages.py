"""The language of a document, found by py3langid.

It is naive Bayes over n-grams of bytes (Lui and Baldwin 2012, langid.py), with a model that the
package holds. The model takes 100 MB of memory in each process and 0.7 s of CPU time to load. The
same processor gives the same probabilities, in threads too; kinds of processors differ by less than
1e-6.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

VARIETIES = {"zh": ("zh", "yue", "wuu")}
"""Codes of the model for one language. ISO 639-3 counts Cantonese and Wu as Chinese (zho), and the
model takes a fifth of the paragraphs of Chinese Wikipedia for Wu."""
PIECES, PIECE = 4, 64
"""Pieces of a long document that are read, and characters of each. From 100 characters on, the
probability of Chinese was above 0.99 in all documents of ordinary Chinese prose that were tried,
simplified, traditional and classical, and at most 0.01 in other languages and in code. A document
takes about 0.6 ms."""


def check(languages: Sequence[str]) -> None:
    """Refuse languages that the model does not know; loads it if there are any.

    Raises:
        ConfigError: with the codes that it knows.
    """
    if languages and (unknown := set(languages) - set(_identifier().labels)):
        raise ConfigError(
            f"corpus.cleaning.languages: unknown: {', '.join(sorted(unknown))}; py3langid knows "
            + ", ".join(sorted(_identifier().labels))
        )


def probability(text: str, languages: Sequence[str]) -> float:
    """Probability that a text is in one of these languages.

    Of a long text, `PIECES` pieces of `PIECE` characters are read, spread evenly from its beginning
    to its end. A text without letters has the same small probability for each language.

    Args:
        languages: codes of ISO 639; `zh` stands for all of its `VARIETIES`.
    """
    wanted = {code for name in languages for code in VARIETIES.get(name, (name,))}
    return sum(share for code, share in _identifier().rank(_pieces(text)) if code in wanted)


def _pieces(text: str) -> str:
    """The part of a text that is read."""
    if len(text) <= PIECES * PIECE:
        return text
    starts = [(len(text) - PIECE) * number // (PIECES - 1) for number in range(PIECES)]
    return "\n".join(text[start : start + PIECE] for start in starts)


@functools.cache
def _identifier() -> LanguageIdentifier:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
