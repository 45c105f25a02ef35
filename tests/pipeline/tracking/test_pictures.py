"""Pictures of a run's history."""

import pytest

from pipeline.tracking import pictures
from tests.pipeline.training.measure.test_history import training


def test_curve_is_a_picture(tmp_path):
    records = [training(10), training(20), {"step": 20, "heldout_mlm_loss": 6.0}]
    pictures.draw_curve(records, tmp_path / "curve.png", unigram_loss=6.5)
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("steps", [(10,), (10, 20, 35)])
def test_trust_ratios_are_a_picture_of_groups_and_steps(tmp_path, steps):
    records = [
        training(step) | {"trust_ratio/embeddings": step / 10, "trust_ratio/layer_00": 0.0}
        for step in steps
    ]
    records.insert(1, {"step": 10, "heldout_mlm_loss": 6.0})
    path = tmp_path / "ratios.png"
    assert pictures.draw_trust_ratios(records, path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_without_trust_ratios_there_is_no_picture(tmp_path):
    assert not pictures.draw_trust_ratios([training(10)], tmp_path / "ratios.png")
    assert not list(tmp_path.iterdir())
