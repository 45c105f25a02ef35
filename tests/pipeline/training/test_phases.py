"""Phases of other lengths: in one run, and NVIDIA's two runs with the repository's settings."""

import json
import shutil
from pathlib import Path

import pytest

from pipeline.comparing.subjects import tokens_of
from pipeline.corpus.shards.format import read_manifest
from pipeline.errors import CheckpointError, VocabularyError
from pipeline.paths import RunPaths
from pipeline.runs.audit import audit
from pipeline.settings.reading.config_file import load_config, with_changes
from pipeline.stages import scoring
from pipeline.stages.before import preflight
from pipeline.training.checkpoints import files as checkpoints
from pipeline.training.measure import history
from pipeline.training.schedule import learning_rate
from tests.corpora import write_corpus
from tests.small_run import MODEL, fit, settings, weights, write_data

CONFIGS = Path(__file__).parents[3] / "jobs/configs"
FIRST, SECOND = "lamb_phase1_128.yaml", "lamb_phase2_512.yaml"
END = "checkpoint_000006"


def phase(file, folder, length, *overrides):
    """The settings of a file, made smaller, with a corpus of samples of this length."""
    config = load_config(
        CONFIGS / file,
        [
            f"run.storage={folder}",
            f"model={MODEL}",
            "corpus.inputs=[]",
            "corpus.heldout=[]",
            f"corpus.vocab={folder / 'vocab.txt'}",
            "train.steps=6",
            "train.global_batch=16",
            "train.micro_batch=8",
            "train.precision=fp32",
            "train.log_every=1",
            "train.eval_every=3",
            "train.checkpoint_every=3",
            *overrides,
        ],
    )
    write_data(config, length, seed=length)
    return config


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    config = phase(FIRST, tmp_path_factory.mktemp("phases"), 24)
    fit(config)
    return RunPaths.of(config).checkpoints / END


def second(first, state, *overrides):
    return phase(
        SECOND,
        first.parents[2],
        48,
        f"run.name={state}",
        f"train.init_from={first}",
        f"train.init_state={state}",
        *overrides,
    )


def training(run):
    records = history.read(run)
    return [(record["lr"], record["mlm_loss"]) for record in records if "lr" in record]


def optimizer_step(path):
    return json.loads((path / checkpoints.STATE).read_text("utf-8"))["engine"]["optimizer_step"]


def test_the_second_phase_starts_from_weights_or_full_state(first):
    courses = {}
    for state, steps in (("weights", 6), ("full", 12)):
        config = second(first, state, "engine.zero_stage=2")
        assert scoring.subject(config) == first
        ended = fit(config)
        path = RunPaths.of(config).checkpoints / END
        assert (ended["step"], ended["samples_seen"], optimizer_step(path)) == (6, 96, steps)
        assert scoring.subject(config).parent == path.parent
        other = with_changes(config, {"train.init_from": "/elsewhere"}, "")
        with pytest.raises(CheckpointError, match="/elsewhere: no such folder"):
            scoring.subject(other)
        courses[state] = training(path.parents[1])
        assert [rate for rate, _ in courses[state]] == [
            learning_rate(step, 6, config.optim) for step in range(6)
        ]
    losses = {state: [loss for _, loss in course] for state, course in courses.items()}
    # The same weights see the same first batch; the moments change the first update.
    assert losses["weights"][0] == pytest.approx(losses["full"][0], rel=1e-6)
    assert losses["weights"][1] != losses["full"][1]
    fresh = second(first, "fresh", "train.init_from=''", "train.init_state=weights")
    fit(fresh)
    assert losses["full"][0] != pytest.approx(training(RunPaths.of(fresh).run)[0][1], rel=1e-3)


def test_a_run_folder_stands_for_its_newest_checkpoint(first):
    config = second(first, "full", "run.name=by-folder", f"train.init_from={first.parents[1]}")
    preflight.check_data(config)
    assert scoring.subject(config) == first
    assert fit(config)["step"] == 6
    assert optimizer_step(RunPaths.of(config).checkpoints / END) == 12
    nothing = first.parents[2] / "nothing"
    (nothing / "checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="no complete checkpoint to start from yet"):
        preflight.check_data(second(first, "full", "run.name=x", f"train.init_from={nothing}"))


def test_a_phase_with_another_vocabulary_is_refused(first, tmp_path):
    config = phase(SECOND, tmp_path, 48, f"train.init_from={first}")
    state = json.loads((first / checkpoints.STATE).read_text("utf-8"))
    preflight.check_data(config)
    copy = shutil.copytree(first, tmp_path / first.name)
    (copy / checkpoints.STATE).write_text(json.dumps(state | {"vocab_sha256": "other"}), "utf-8")
    with pytest.raises(VocabularyError, match=f"{copy} was trained with another vocabulary"):
        preflight.check_data(phase(SECOND, tmp_path, 48, f"train.init_from={copy}"))


def test_one_run_in_phases_resumes_bit_for_bit_and_is_audited(tmp_path):
    phased = "train.phases=[{after: 5, sequence_length: 96, global_batch: 6}]"
    states = []
    whole, config = (settings(tmp_path, name, phased) for name in ("whole", "killed"))
    for run in (whole, config):
        paths = RunPaths.of(run)
        (folder,) = paths.later[0]
        assert folder == f"{paths.shards}-96"
        write_corpus(Path(folder), paths.vocab, seed=2, length=96)
        states.append(fit(run))
    assert states[0]["samples_seen"] == 5 * 16 + 7 * 6
    checkpoints.remove(paths.checkpoints / "checkpoint_000012")
    assert fit(config) == states[1]  # from step 6, which is in the second phase
    assert weights(whole, 12) == weights(config, 12)
    found = audit(config)
    assert found.problems == []
    assert len(found.epochs) == 2
    longest = max(shard.tokens for shard in read_manifest(folder).shards)
    assert 7 * 6 <= tokens_of(paths.checkpoints / "checkpoint_000012") - 5 * 16 * 24 <= longest
    with pytest.raises(CheckpointError, match="phases: was"):
        preflight.check_data(with_changes(config, {"train.phases": ()}, ""))
