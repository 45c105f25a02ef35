"""A global batch shared out among any number of workers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.settings.config import Config
from pipeline.training import batch_split


@given(micro=st.integers(1, 64), workers=st.integers(1, 16), accumulation=st.integers(1, 64))
def test_every_possible_split_is_found(micro, workers, accumulation):
    split = batch_split.split_batch(micro * workers * accumulation, micro, workers)
    assert split == (micro * workers * accumulation, micro, workers, accumulation)


@given(
    batch=st.integers(1, 600),
    micro=st.integers(1, 64),
    workers=st.integers(1, 16),
)
def test_an_impossible_split_proposes_possible_ones(batch, micro, workers):
    try:
        split = batch_split.split_batch(batch, micro, workers)
    except ConfigError as error:
        proposals = str(error).split("the nearest that fit: ")[1].split("; ")
    else:
        assert split.accumulation * micro * workers == batch
        return
    assert proposals
    for proposal in proposals:
        key, values = proposal.split("=")
        for value in map(int, values.split(" or ")):
            changed = {"train.global_batch": batch, "train.micro_batch": micro}
            changed |= {"scaling.workers": workers, key: value}
            batch_split.split_batch(*changed.values())


def test_proposals_are_the_nearest():
    with pytest.raises(ConfigError) as caught:
        batch_split.split_batch(96, 20, 4)
    assert "train.global_batch=80 or 160; train.micro_batch=12 or 24" in str(caught.value)
    with pytest.raises(ConfigError, match=r"scaling\.workers=2 or 4$"):
        batch_split.split_batch(256, 32, 3)


@given(batch=st.integers(1, 600), micro=st.integers(1, 64), workers=st.integers(1, 16))
def test_an_elastic_run_shares_out_any_batch(batch, micro, workers):
    """Every worker has a sample for each of equally many micro-batches, none of them too large."""
    values = {
        "train": {"global_batch": batch, "micro_batch": micro},
        "scaling": {"min_workers": 1, "max_workers": 16},
    }
    config = Config.model_validate(values)
    if workers > batch or (micro == 1 and batch % workers):
        with pytest.raises(ConfigError, match=f"without a sample when there are {workers};"):
            batch_split.split_for(config, workers)
        return
    split = batch_split.split_for(config, workers)
    assert split.micro_batch <= micro
    assert batch // workers >= split.accumulation
    assert split.micro_batch * split.accumulation * workers >= batch
    if batch % (micro * workers) == 0:
        assert split == batch_split.split_batch(batch, micro, workers)
