"""Weights are used only in the network and the vocabulary that they were trained with."""

import shutil

import pytest

from pipeline.errors import CheckpointError, VocabularyError
from pipeline.stages.before import preflight
from pipeline.training.checkpoints import files, tensors
from pipeline.training.checkpoints.state import read_weights
from tests.small_run import settings


@pytest.fixture
def trained(run):
    """A checkpoint, and the export of it."""
    _, paths = run
    return files.best(paths.checkpoints), paths.export


def second(trained, tmp_path, origin, *overrides):
    config = settings(tmp_path, "second", f"train.init_from={origin}", *overrides)
    return preflight.check_data(config)


@pytest.mark.parametrize("kind", [0, 1], ids=["checkpoint", "export"])
def test_the_same_network_is_accepted_with_other_dropout(trained, tmp_path, kind):
    second(trained, tmp_path, trained[kind], "model.hidden_dropout_prob=0.3")


@pytest.mark.parametrize("kind", [0, 1], ids=["checkpoint", "export"])
@pytest.mark.parametrize(
    "override",
    [
        "model.num_attention_heads=4",
        "model.max_relative_position=16",
        "model.hidden_act=relu",
        "model.layer_norm_eps=1e-5",
    ],
)
def test_a_network_that_only_looks_the_same_is_refused(trained, tmp_path, kind, override):
    name = override.partition("=")[0]
    with pytest.raises(CheckpointError, match=rf"another network:\n  {name}: "):
        second(trained, tmp_path, trained[kind], override)


def test_the_same_words_under_other_numbers_are_refused(trained, tmp_path):
    other = shutil.copytree(trained[1], tmp_path / "other")
    lines = (other / "vocab.txt").read_text("utf-8").splitlines()
    (other / "vocab.txt").write_text("\n".join([*lines[:5], *reversed(lines[5:])]), "utf-8")
    with pytest.raises(VocabularyError, match="another vocabulary"):
        second(trained, tmp_path, other)


def test_a_folder_that_is_neither_is_refused(trained, tmp_path):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(CheckpointError, match="neither a checkpoint"):
        second(trained, tmp_path, tmp_path / "nothing")


def test_a_run_that_has_not_begun_is_no_start(trained, tmp_path):
    """Its folder has a vocabulary, and was taken for the export of a network of base size."""
    (tmp_path / "prepared").mkdir()
    shutil.copy(trained[1] / "vocab.txt", tmp_path / "prepared")
    with pytest.raises(CheckpointError, match=r"neither a checkpoint.*no config\.json"):
        second(trained, tmp_path, tmp_path / "prepared")


def test_weights_of_a_damaged_checkpoint_are_not_used(trained, tmp_path):
    """Their shapes are right, so they were trained on and scored."""
    damaged = shutil.copytree(trained[0], tmp_path / trained[0].name)
    file = tensors.files_in(damaged)[0]
    data = bytearray(file.read_bytes())
    data[-1] ^= 0x40
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match="safetensors is damaged"):
        read_weights(damaged)
    (damaged / files.COMPLETE).unlink()
    with pytest.raises(CheckpointError, match="is incomplete"):
        read_weights(damaged)
