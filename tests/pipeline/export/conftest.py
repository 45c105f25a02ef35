import pytest

from pipeline.export.folder import export_checkpoint
from pipeline.paths import RunPaths
from pipeline.training.checkpoints import files
from tests.small_run import fit, settings


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """The settings and the paths of a run with one checkpoint, and an export of it."""
    config = settings(tmp_path_factory.mktemp("runs"), "exported", "train.steps=6")
    fit(config)
    paths = RunPaths.of(config)
    export_checkpoint(files.best(paths.checkpoints), paths.vocab, paths.export)
    return config, paths
