import pytest

from pipeline.settings.reading.config_file import load_config


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    storage = tmp_path_factory.mktemp("storage")
    return load_config(None, [f"run.storage={storage}", "tracking.experiment=tests"])
