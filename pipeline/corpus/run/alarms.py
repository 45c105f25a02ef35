"""Whether training can work on the samples of a corpus: shares, and what is wrong with them."""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from pipeline.corpus.samples.measuring import LONGEST_WORD
from pipeline.errors import CorpusError
from pipeline.settings.corpus import CorpusSettings, MaskingSettings

UNKNOWN_WARNING = 0.02
"""Share of [UNK]: Chinese text with a vocabulary of its own has less than 0.5 %."""
UNKNOWN_ERROR = 0.5
"""A text in which every second token is unknown has hardly two known neighbours to learn from."""
UNKNOWN_EARLY = 0.8
EARLY_TOKENS = 1_000_000
"""A vocabulary that lacks 80 % of a million tokens is one of another language or script."""
UNMASKABLE_WARNING = 0.01
"""Share of samples without a word to mask: they cost time, and the masked-token loss skips them."""
UNMASKABLE_ERROR = 0.5
RANDOM_PAIRS_WARNING = 0.15
"""Difference from `pairs.random_share`. BERT's rule, that a single sentence gets a random partner,
exceeds the setting by up to 0.1 on ordinary articles and by 0.2 and more on short documents."""
MASKED_WARNING = 0.15
"""Relative difference of the masked share from `masking.probability`: samples of few tokens mask at
least one of them, and [UNK] is never masked, which moves it by a few per cent."""
RATE_WARNING = 0.1
"""Relative difference of the mask rate of words of one length from that of all words."""
JOIN = (
    "a document of one sentence always gets a random partner: join short documents "
    "(corpus.format=text takes a whole text file as one, in spite of its blank lines), or set "
    "corpus.pairs.task to sop or none"
)
SIGMAS = 5
"""Chance gives a larger difference about once in a million cases."""


class CorpusQuality(NamedTuple):
    """Shares and rates of a corpus, and warnings about those that are unusual."""

    shares: dict[str, float]
    """Shares by name: `unknown_tokens`, `samples_without_words`, `random_pairs`, `masked_tokens`;
    those that the settings leave undefined are absent."""
    mask_rates: dict[str, float]
    """Share of the words that are masked, by their number of tokens."""
    warnings: tuple[str, ...]


def judge_corpus(
    tokens: int, unknown: int, measured: Mapping[str, int], settings: CorpusSettings
) -> CorpusQuality:
    """Compare the counts of a corpus with the settings.

    Args:
        tokens, unknown: tokens of the text, and how many of them are [UNK].
        measured: sums of what `measure` returns.

    Raises:
        CorpusError: training can't work on the samples.
    """
    shares = {"unknown_tokens": unknown / max(1, tokens)}
    labelled = measured["continued"] + measured["other"]
    if settings.pairs.task != "none":
        shares["random_pairs"] = measured["other"] / max(1, labelled)
    shares["samples_without_words"] = measured["without_words"] / max(1, measured["measured"])
    shares["masked_tokens"] = measured["masked_tokens"] / max(1, measured["tokens"])
    check_unknown(tokens, unknown, ended=True)
    if shares["samples_without_words"] > UNMASKABLE_ERROR:
        raise CorpusError(
            f"{shares['samples_without_words']:.0%} of the samples have no word that could be "
            "masked, because each word holds an [UNK]; check corpus.vocab and corpus.cleaning"
        )
    if settings.masking.mode == "static" and not measured["masked_tokens"]:
        raise CorpusError(
            f"no token of the {measured['measured']:,} sample(s) is masked, so there is nothing to "
            "predict; the text is too short for corpus.masking: add text"
        )
    words = [measured[f"words_{size}"] for size in range(1, LONGEST_WORD + 1)]
    hit = [measured[f"masked_words_{size}"] for size in range(1, LONGEST_WORD + 1)]
    rates = {
        f"{size}{'+' if size == LONGEST_WORD else ''}": masked / count
        for size, (count, masked) in enumerate(zip(words, hit, strict=True), 1)
        if count
    }
    warnings = [
        *_share_warnings(shares, labelled, settings),
        *_rate_warnings(words, hit, settings.masking),
    ]
    return CorpusQuality(shares, rates, tuple(warnings))


def check_unknown(tokens: int, unknown: int, ended: bool) -> None:
    """Check the share of [UNK]; before the end of the corpus, only where it can hardly fall again.

    Raises:
        CorpusError: it is above `UNKNOWN_ERROR`, or before the end above `UNKNOWN_EARLY` of
            `EARLY_TOKENS` or more.
    """
    share = unknown / max(1, tokens)
    if share > (UNKNOWN_ERROR if ended else UNKNOWN_EARLY) and (ended or tokens >= EARLY_TOKENS):
        raise CorpusError(
            f"{share:.0%} of the tokens{'' if ended else ' so far'} are [UNK], so there is nothing "
            "to learn; the vocabulary is not one of this text: set corpus.vocab to another one, or "
            "leave it empty to train one"
        )


def lines(shares: Mapping[str, float], mask_rates: Mapping[str, float]) -> list[str]:
    """The shares and rates, to be printed."""
    named = [f"{name.replace('_', ' ')} {share:.2%}" for name, share in shares.items()]
    rates = [f"{size}: {rate:.1%}" for size, rate in mask_rates.items()]
    return [
        "shares: " + " · ".join(named),
        "masked words by number of tokens: " + " · ".join(rates),
    ]


def _share_warnings(
    shares: Mapping[str, float], labelled: int, settings: CorpusSettings
) -> Iterator[str]:
    if (share := shares["unknown_tokens"]) > UNKNOWN_WARNING:
        yield (
            f"{share:.1%} of the tokens are [UNK] (usual is less than 0.5 %); the manifest lists "
            "the most frequent unknown characters; check corpus.vocab and corpus.cleaning"
        )
    if (share := shares["samples_without_words"]) > UNMASKABLE_WARNING:
        yield f"{share:.1%} of the samples have no word that could be masked"
    wanted = settings.masking.probability
    if abs(shares["masked_tokens"] - wanted) > MASKED_WARNING * wanted:
        limit = settings.masking.max_predictions
        yield (
            f"{shares['masked_tokens']:.1%} of the tokens are masked, where "
            f"corpus.masking.probability is {wanted:.1%}"
            + (f"; corpus.masking.max_predictions is {limit}" if limit else "")
        )
    if "random_pairs" not in shares:
        return
    share, wanted = shares["random_pairs"], settings.pairs.random_share
    chance = SIGMAS * math.sqrt(0.25 / max(1, labelled))
    kind = "random" if settings.pairs.task == "nsp" else "swapped"
    off = share - wanted
    if kind == "random" and wanted and not share:
        yield (
            "no second segment is random, so next-sentence prediction has one answer only: a "
            "shard of one document gives no random partner; in text files a blank line ends a "
            "document, in JSONL each line is one"
        )
    elif kind == "random" and wanted < 1 and share == 1:
        yield (
            "all second segments are random, so next-sentence prediction has one answer only: "
            f"{JOIN}"
        )
    elif abs(off) > RANDOM_PAIRS_WARNING + chance:
        yield (
            f"{share:.0%} of the second segments are {kind}, where corpus.pairs.random_share is "
            f"{wanted:.0%}; "
            + (JOIN if off > 0 else "a shard of few documents gives few random partners")
        )


def _rate_warnings(words: list[int], hit: list[int], masking: MaskingSettings) -> Iterator[str]:
    rate = sum(hit) / max(1, sum(words))
    for size, (count, masked) in enumerate(zip(words, hit, strict=True), 1):
        # Words of one n-gram are masked together, so they count for less.
        chance = SIGMAS * math.sqrt(rate * masking.max_ngram / max(1, count))
        if abs(masked / max(1, count) - rate) > RATE_WARNING * rate + chance and count:
            yield (
                f"words of {size} tokens are masked in {masked / count:.1%} of the cases, all "
                f"words in {rate:.1%}"
                + (
                    f"; corpus.masking.max_predictions is {masking.max_predictions}, which leaves "
                    "out short words first"
                    if masking.max_predictions
                    else ""
                )
            )
