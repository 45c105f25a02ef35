"""Names under which MLflow's pages group metrics."""

import pytest

from pipeline.tracking.metric_names import grouped


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("loss", "train/loss"),
        ("heldout_mlm_loss", "heldout/mlm_loss"),
        ("heldout_word_accuracy_2", "heldout/word_accuracy_2"),
        ("heldout_masked_words_2", "size/heldout_masked_words_2"),
        ("tokens_per_second", "speed/tokens_per_second"),
        ("trust_ratio/layer_01", "lamb/trust_ratio/layer_01"),
        ("speed/checkpoint_copy_seconds", "speed/checkpoint_copy_seconds"),
        ("test_f1_C++", "test/f1_C:2b:2b"),
        ("dev/f1_/", "dev/f1_:2f"),
        ("dev/f1_n/a", "dev/f1_n/a"),
        ("dev/f1_a//b/..", "dev/f1_a:2f/b:2f.."),
    ],
)
def test_a_name_gets_its_group(name, shown):
    assert grouped(name) == shown
