"""Settings that have no effect without others are refused."""

import pytest

from pipeline.errors import ConfigError
from pipeline.settings.needs import NEEDS
from pipeline.settings.reading.config_file import load_config

WITHOUT_EFFECT = {
    "run.scratch": ["/d"],
    "demo.heldout_share": ["0.1"],
    "corpus.heldout": ["[a.txt]"],
    "corpus.text_field": ["body", "corpus.format=lines"],
    "corpus.encoding": ["gb18030", "corpus.format=parquet"],
    "corpus.dedup.ngram": ["4"],
    "corpus.dedup.bands": ["9"],
    "corpus.dedup.rows": ["4"],
    "corpus.dedup.memory_megabytes": ["50"],
    "corpus.pairs.random_share": ["0.3", "corpus.pairs.task=none"],
    "corpus.masking.final_probability": ["0.1"],
    "train.shard_cache": ["/d", "train.shards=[/shards]"],
    "train.nsp_weight": ["0.5", "corpus.pairs.task=none", "corpus.inputs=[a.txt]"],
    "optim.decay": ["0.1", "optim.schedule=constant"],
    "tracking.alias": ["a", "tracking.registered_model="],
    "plan.mfu": ["0.4"],
}
"""By setting: a value, and other settings that make it meaningless."""
WITH_EFFECT = {
    "run.scratch": ["/d", "run.storage=s3://runs"],
    "demo.heldout_share": ["0.1", "demo.enabled=true"],
    "corpus.heldout": ["[a.txt]", "corpus.inputs=[b.txt]"],
    "corpus.text_field": ["body"],
    "corpus.encoding": ["gb18030"],
    "corpus.dedup.ngram": ["4", "corpus.dedup.near_documents=true"],
    "corpus.dedup.bands": ["9", "corpus.dedup.near_documents=true"],
    "corpus.dedup.rows": ["4", "corpus.dedup.near_documents=true"],
    "corpus.dedup.memory_megabytes": ["50", "corpus.dedup.boilerplate_documents=9"],
    "corpus.pairs.random_share": ["0.3", "corpus.pairs.task=sop"],
    "corpus.masking.final_probability": ["0.1", "corpus.masking.mode=dynamic"],
    "train.shard_cache": [
        "/d",
        "train.phases=[{after: 9, sequence_length: 64, global_batch: 8, shards: [s3://a/b]}]",
    ],
    "train.nsp_weight": ["0.5", "corpus.pairs.task=none", "train.shards=[/with/pairs]"],
    "optim.decay": ["0.1"],
    "tracking.alias": ["a"],
    "plan.mfu": ["0.4", "plan.device=H100"],
}


def test_each_need_is_tried():
    names = [key for need in NEEDS for key in need.settings.split()]
    assert sorted(names) == sorted(WITHOUT_EFFECT) == sorted(WITH_EFFECT)


@pytest.mark.parametrize("key", WITHOUT_EFFECT)
def test_a_setting_without_effect_is_refused(key):
    value, *others = WITHOUT_EFFECT[key]
    with pytest.raises(
        ConfigError, match=rf"{key}=.* has no effect without .*, or leave"
    ) as raised:
        load_config(None, [f"{key}={value}", *others])
    assert "1 wrong setting(s)" in str(raised.value)


@pytest.mark.parametrize("key", WITH_EFFECT)
def test_it_is_accepted_where_it_has_one(key):
    value, *others = WITH_EFFECT[key]
    load_config(None, [f"{key}={value}", *others])


def test_all_are_named_at_once():
    with pytest.raises(ConfigError, match=r"2 wrong setting\(s\)"):
        load_config(None, ["plan.mfu=0.4", "demo.heldout_share=0.1"])
