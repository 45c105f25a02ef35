"""Settings that have no effect without others: they are refused, not ignored."""

from collections.abc import Callable
from typing import Any, NamedTuple

from pipeline.files.urls import is_url
from pipeline.settings.base import Settings


class Need(NamedTuple):
    """Settings that are refused where others make them meaningless."""

    settings: str
    """Their dotted names, with spaces between them."""
    needs: str
    """What must be set too, for the message."""
    met: Callable[[Any], Any]
    """Takes a `Config`, whose file imports this one; returns whether it is set."""


def _remote(config: Any) -> bool:
    train = config.train
    shards = [*train.shards, *(shard for phase in train.phases for shard in phase.shards)]
    return any(map(is_url, (*shards, train.eval_shards, config.corpus.output)))


def _may_have_pairs(config: Any) -> bool:
    """False where this run makes its samples, and makes them without pairs."""
    corpus = config.corpus
    return corpus.pairs.task != "none" or not (corpus.inputs or config.demo.enabled)


NEEDS = (
    Need("run.scratch", "a URL as run.storage", lambda c: is_url(c.run.storage)),
    Need("demo.heldout_share", "demo.enabled=true", lambda c: c.demo.enabled),
    Need("corpus.heldout", "corpus.inputs", lambda c: c.corpus.inputs),
    Need(
        "corpus.text_field",
        "a corpus.format with fields (auto, jsonl, csv, tsv, parquet or arrow)",
        lambda c: c.corpus.format in ("auto", "jsonl", "csv", "tsv", "parquet", "arrow"),
    ),
    Need(
        "corpus.encoding",
        "a corpus.format other than parquet and arrow",
        lambda c: c.corpus.format not in ("parquet", "arrow"),
    ),
    Need(
        "corpus.dedup.ngram corpus.dedup.bands corpus.dedup.rows",
        "corpus.dedup.near_documents=true",
        lambda c: c.corpus.dedup.near_documents,
    ),
    Need(
        "corpus.dedup.memory_megabytes",
        "a comparison of documents or lines (corpus.dedup.exact_documents …)",
        lambda c: c.corpus.dedup.compares_documents or c.corpus.dedup.compares_lines,
    ),
    Need(
        "corpus.pairs.random_share",
        "sentence pairs (corpus.pairs.task=nsp or sop)",
        lambda c: c.corpus.pairs.task != "none",
    ),
    Need(
        "corpus.masking.final_probability",
        "corpus.masking.mode=dynamic, because it changes masks while training",
        lambda c: c.corpus.masking.mode == "dynamic",
    ),
    Need(
        "train.shard_cache",
        "a URL of shards (train.shards, train.eval_shards or corpus.output)",
        _remote,
    ),
    Need("train.nsp_weight", "sentence pairs (corpus.pairs.task=nsp or sop)", _may_have_pairs),
    Need(
        "optim.decay",
        "another optim.schedule (linear, polynomial, cosine or sqrt), as this one fixes by itself "
        "when the rate falls",
        lambda c: c.optim.schedule not in ("constant", "nvidia"),
    ),
    Need("tracking.alias", "tracking.registered_model", lambda c: c.tracking.registered_model),
    Need("plan.mfu", "plan.device, as a speed is measured otherwise", lambda c: c.plan.device),
)


def without_effect(config: Settings) -> list[str]:
    """A line for each setting that is not its default and has no effect."""
    return [
        f"{key}={value} has no effect without {need.needs}; set that, or leave {key} out"
        for need in NEEDS
        if not need.met(config)
        for key in need.settings.split()
        for value, default in [_value_and_default(config, key)]
        if value != default
    ]


def _value_and_default(config: Settings, key: str) -> tuple[Any, Any]:
    *groups, name = key.split(".")
    group: Any = config
    for each in groups:
        group = getattr(group, each)
    return getattr(group, name), type(group).model_fields[name].default
