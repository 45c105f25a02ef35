import numpy as np
import pytest

from pipeline.settings.reading.config_file import load_config
from pipeline.training.measure.random_batch import random_batch


@pytest.mark.parametrize(("samples", "mean"), [(1, 50), (8, 50), (8, 128), (8, 1000), (32, 9.5)])
def test_samples_have_the_mean_length_and_one_of_them_is_full(samples, mean):
    batch = random_batch(load_config(None, ["model={size: tiny}"]), samples, mean)
    lengths = batch.attention_mask.sum(axis=1)
    wanted = min(mean, 128) if samples > 1 else 128
    assert lengths.max() == 128
    assert abs(lengths.mean() - wanted) <= 0.5
    assert (batch.tokens, batch.squares) == (lengths.sum(), (lengths**2).sum())
    masked = batch.masked_positions
    assert len(masked) == int(0.15 * batch.tokens)
    assert (np.diff(masked) > 0).all()
    assert batch.attention_mask.ravel()[masked].all()
    assert (batch.labels.ravel()[masked] == batch.masked_labels).all()
