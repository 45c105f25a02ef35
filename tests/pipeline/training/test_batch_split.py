"""A global batch, split among any number of workers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.settings.config import Config
from pipeline.training import batch_split


@given(micro=st.integers(1, 64), workers=st.integers(1, 16), accumulation=st.integers(1, 64))
def test_a_batch_that_fits_is_split_into_the_micro_batches_asked_for(micro, workers, accumulation):
    split = batch_split.split_batch(micro * workers * accumulation, micro, workers)
    assert split == (micro, workers, accumulation)


@given(batch=st.integers(1, 600), micro=st.integers(1, 64), workers=st.integers(1, 16))
def test_any_batch_is_split(batch, micro, workers):
    """Every worker has a sample for each of equally many micro-batches, none of them too large."""
    if workers > batch or (micro == 1 and batch % workers):
        with pytest.raises(ConfigError, match=f"without a sample when there are {workers} "):
            batch_split.split_batch(batch, micro, workers)
        return
    split = batch_split.split_batch(batch, micro, workers)
    assert split.micro_batch <= micro
    assert batch // workers >= split.accumulation
    assert split.micro_batch * split.accumulation * workers >= batch


@pytest.mark.parametrize(
    ("values", "gpus", "cpus", "workers"),
    [
        ({}, 0, 8, 2),
        ({}, 0, 1, 1),
        ({}, 4, 8, 4),
        ({"train": {"global_batch": 3}}, 4, 8, 3),
        ({"scaling": {"workers": 5}}, 4, 8, 5),
        ({"scaling": {"min_workers": 1, "max_workers": 6}}, 4, 8, 6),
    ],
)
def test_number_of_workers(values, gpus, cpus, workers):
    assert batch_split.choose_workers(Config.model_validate(values), gpus, cpus) == workers
