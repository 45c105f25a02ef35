"""A global batch, split among any number of workers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.settings.config import Config
from pipeline.settings.training import TrainSettings
from pipeline.training import batch_split


def split(global_batch, micro_batch, workers, **more):
    train = TrainSettings(global_batch=global_batch, micro_batch=micro_batch, **more)
    return batch_split.split_batch(train, workers)


@given(micro=st.integers(1, 64), workers=st.integers(1, 16), accumulation=st.integers(1, 64))
def test_a_batch_that_fits_is_split_into_the_micro_batches_asked_for(micro, workers, accumulation):
    parts = split(micro * workers * accumulation, micro, workers)
    assert parts == (micro, workers, accumulation)


@given(batch=st.integers(1, 600), micro=st.integers(1, 64), workers=st.integers(1, 16))
def test_any_batch_is_split(batch, micro, workers):
    """Every worker has a sample for each of equally many micro-batches, none of them too large."""
    if workers > batch or (micro == 1 and batch % workers):
        with pytest.raises(ConfigError, match=f"without a sample when there are {workers} "):
            split(batch, micro, workers)
        return
    parts = split(batch, micro, workers)
    assert parts.micro_batch <= micro
    assert batch // workers >= parts.accumulation
    assert parts.micro_batch * parts.accumulation * workers >= batch


def test_the_first_batch_of_a_warm_up_must_be_split_as_the_full_one():
    assert split(64, 8, 2, first_batch=8, batch_warmup=5) == (8, 2, 4)
    phase = {"after": 9, "sequence_length": 512, "global_batch": 8}
    assert split(64, 8, 2, phases=[phase]) == (8, 2, 4)
    assert split(64, 8, 2, phases=[{**phase, "global_batch": 130}]) == (8, 2, 9)
    with pytest.raises(ConfigError, match=r"train\.phases\.0\.global_batch=7 in 4 micro-batches"):
        split(64, 8, 2, phases=[{**phase, "global_batch": 7}])
    with pytest.raises(ConfigError, match=r"train\.first_batch=7 in 4 micro-batches"):
        split(64, 8, 2, first_batch=7, batch_warmup=5)


@pytest.mark.parametrize(
    ("values", "gpus", "cpus", "workers"),
    [
        ({}, 0, 8, 2),
        ({}, 0, 1, 1),
        ({}, 0, 0, 1),
        ({}, 4, 8, 4),
        ({"scaling": {"gpus_per_worker": 0}}, 4, 8, 2),
        ({"scaling": {"gpus_per_worker": 1}}, 4, 8, 4),
        ({"train": {"global_batch": 3}}, 4, 8, 3),
        ({"scaling": {"workers": 5}}, 4, 8, 5),
        ({"scaling": {"min_workers": 1, "max_workers": 6}}, 4, 8, 6),
    ],
)
def test_number_of_workers(values, gpus, cpus, workers):
    assert batch_split.choose_workers(Config.model_validate(values), gpus, cpus) == workers
