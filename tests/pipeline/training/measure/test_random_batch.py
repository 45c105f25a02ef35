import pytest

from pipeline.settings.reading.config_file import load_config
from pipeline.training.measure.random_batch import random_batch


@pytest.mark.parametrize(("samples", "mean"), [(1, 50), (8, 50), (8, 128), (8, 1000), (32, 9.5)])
def test_samples_have_the_mean_length_and_one_of_them_is_full(samples, mean):
    inputs = random_batch(load_config(None, ["model={size: tiny}"]), samples, mean)
    lengths = inputs.cu_seqlens.diff()
    wanted = min(mean, 128) if samples > 1 else 128
    assert lengths.max() == inputs.longest == 128
    assert abs(lengths.float().mean() - wanted) <= 0.5
    assert lengths.sum() == len(inputs.input_ids) == len(inputs.token_type_ids)
    masked = inputs.masked_positions
    assert len(masked) == int(0.15 * len(inputs.input_ids))
    assert (masked.diff() > 0).all()
    assert (inputs.input_ids[masked] == inputs.masked_labels).all()
