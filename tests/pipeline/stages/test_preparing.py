from pathlib import Path

import pytest

from pipeline.corpus import planning
from pipeline.corpus.run.inputs import Inputs
from pipeline.corpus.shards import format as shards
from pipeline.errors import ConfigError
from pipeline.paths import RunPaths
from pipeline.settings.reading.config_file import with_changes
from pipeline.stages import preparing
from tests.corpora import LETTERS
from tests.small_run import fit, settings

TEXTS = Inputs([], [])


def test_shards_that_the_run_was_trained_on_are_not_replaced(tmp_path):
    config = settings(tmp_path, "run", "train.steps=1")
    paths = RunPaths.of(config)
    config = with_changes(config, {"corpus.vocab": paths.vocab}, "")
    planned = planning.plan(config.corpus, paths.vocab, config.run.seed, TEXTS)
    made = {"fingerprint": planned.fingerprint, "settings": config.corpus.model_dump(mode="json")}
    manifest = shards.read_manifest(paths.shards).model_copy(update=made)
    shards.write_manifest(str(paths.shards), manifest)
    (tmp_path / "other.txt").write_text(
        Path(paths.vocab).read_text("utf-8").replace(LETTERS[0], "Ω"), "utf-8"
    )
    changes = {
        "corpus.sequence_length": (96, r"\n  corpus.sequence_length: 128 → 96\nset"),
        "corpus.vocab": (str(tmp_path / "other.txt"), r"\n  corpus.vocab: .*/other.txt\nset"),
        "run.seed": (7, r"\n  run.seed: 42 → 7\nset"),
    }
    for key, (value, _) in changes.items():  # as long as the run has no checkpoint, they may be
        preparing.check_trained(with_changes(config, {key: value}, ""), TEXTS)
    fit(config)
    preparing.check_trained(config, TEXTS)
    for key, (value, told) in changes.items():
        with pytest.raises(ConfigError, match=f"checkpoint_000001 .* other settings:{told}"):
            preparing.check_trained(with_changes(config, {key: value}, ""), TEXTS)
    manifest = manifest.model_copy(update={"fingerprint": "of other texts"})
    shards.write_manifest(str(paths.shards), manifest)
    with pytest.raises(ConfigError, match="other texts or packages\nset"):
        preparing.check_trained(config, TEXTS)
