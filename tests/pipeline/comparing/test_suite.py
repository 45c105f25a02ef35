"""The tasks of a comparison."""

import pytest

from pipeline.comparing.suite import suite_of
from pipeline.errors import ConfigError
from tests.pipeline.comparing.given import config, task


def test_the_suite_is_that_of_heads_recipes_and_limits(data, tmp_path):
    recipe = tmp_path / "pairs.yaml"
    recipe.write_text(f"run: {{name: pairs}}\nfinetune: {task(data, 'pair')}\n", "utf-8")
    given = [f"heads.names={task(data)}", f"compare.tasks=[{recipe}]", "compare.seeds=2"]
    suite = suite_of(config(tmp_path, *given, "compare.train_limit=9", "run.seed=5"))
    assert list(suite) == ["names", "pairs"]
    assert all(each.search.seeds == (5, 6) for each in suite.values())
    assert all(each.data.examples == 9 for each in suite.values())
    folder = tmp_path / "data" / "names"
    folder.mkdir(parents=True)
    for split in ("train", "dev"):
        (folder / f"{split}.jsonl.gz").write_bytes(b"")
    moved = suite_of(config(tmp_path, given[0], f"compare.data={tmp_path}/data"))
    assert moved["names"].data.train == str(folder / "train.jsonl.gz")
    assert moved["names"].data.test == ""
    (folder / "dev.csv").touch()
    with pytest.raises(ConfigError, match=r"several files for dev: dev\.csv, dev\.jsonl\.gz"):
        suite_of(config(tmp_path, given[0], f"compare.data={tmp_path}/data"))
