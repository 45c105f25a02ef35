"""Pictures of a run's history."""

import pytest

from pipeline.tracking import pictures
from pipeline.tracking.judged_pictures import draw_confusion, draw_curves
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


def test_names_of_labels_and_tasks_are_no_formulas_and_give_no_warnings(tmp_path, recwarn):
    names = ["$\\x$", "好评"]
    draw_confusion(names, [[1, 2], [3, 4]], tmp_path / "confusion.png", "情感 $, dev")
    draw_curves({name: [(1.0, 0.5), (2.0, 0.6)] for name in names}, tmp_path / "curve.png")
    assert not recwarn.list
    for name in ("confusion.png", "curve.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
