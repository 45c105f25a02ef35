"""Where the files of a run are."""

import pytest

from pipeline.paths import RunPaths
from pipeline.settings.reading.config_file import load_config


@pytest.mark.parametrize(
    ("text", "folder"), [("/", "/"), ("/d/", "/d"), ("s3://b/d/", "s3://b/d"), ("", "/r/nezha/{}")]
)
def test_a_chosen_folder_is_never_the_usual_one(text, folder):
    """`$OUT/` of a shell without that variable is the root, which is refused as not empty."""
    given = ["run.storage=/r", f"corpus.output={text}", f"train.eval_shards={text}"]
    paths = RunPaths.of(load_config(None, given))
    assert (paths.shards, paths.heldout) == (folder.format("shards"), folder.format("heldout"))
