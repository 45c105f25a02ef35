"""The checkpoints of a comparison."""

import pytest

from pipeline.comparing.subjects import short_names, subjects_of
from pipeline.errors import ExportError
from pipeline.settings.reading.config_file import load_config


def test_names_are_the_shortest_that_differ():
    paths = ["/runs/a/export", "/runs/b/export", "/x/rbt3", "models:/nezha@champion"]
    assert list(short_names(paths).values()) == ["a/export", "b/export", "rbt3", "nezha@champion"]
    versions = ["models:/nezha/1", "models:/nezha/2"]
    assert list(short_names(versions).values()) == ["nezha/1", "nezha/2"]
    assert list(short_names(["/x/random", "random"]).values()) == ["x/random", "random"]


def test_a_folder_that_is_no_export_is_named_with_what_to_give(tmp_path):
    (tmp_path / "checkpoint_000002").mkdir()
    config = load_config(None, [f"compare.checkpoints=[{tmp_path}/checkpoint_000002]"])
    with pytest.raises(ExportError, match=r"_000002: not a .*; give the folder that `python -m"):
        subjects_of(config, lambda works: [], tmp_path)
