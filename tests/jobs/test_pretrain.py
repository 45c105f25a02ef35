"""What the main job refuses, with one message and before anything starts."""

import shlex
from pathlib import Path

import pytest

from jobs import pretrain
from jobs.command import main
from jobs.output import pretraining as output
from pipeline.settings.reading.config_file import load_config
from pipeline.stages.before import dry_run
from tests.corpora import write_corpus, write_vocabulary


@pytest.fixture
def storage(tmp_path):
    return tmp_path / "runs"


def refused(capsys, *settings) -> str:
    assert main(pretrain.VERB, list(settings)) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([], "set corpus.inputs"),
        (["corpus.inputs=[nowhere/*.jsonl]"], "nowhere/*.jsonl"),
        (["demo.enabled=true", "train.precision=fp16"], "train.precision=fp16 needs a GPU"),
        (
            ["demo.enabled=true", "scaling.workers=2", "train={global_batch: 1, micro_batch: 16}"],
            "without a sample when there are 2 workers",
        ),
        (
            ["demo.enabled=true", "heads.a={task: ner, data: {train: /absent.jsonl}}"],
            "heads.a.data.train: /absent.jsonl: no such file",
        ),
        pytest.param(
            ["demo.enabled=true", "model.hidden_act=gleu"],
            "model: hidden_act is 'gleu'",
            marks=pytest.mark.long,
        ),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_made(capsys, storage, given, told):
    assert told in refused(capsys, f"run.storage={storage}", *given)
    assert not storage.exists()


def test_an_empty_corpus(capsys, storage, tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    assert "empty.jsonl" in refused(capsys, f"run.storage={storage}", f"corpus.inputs=[{empty}]")


def test_a_starting_point_that_does_not_exist(capsys, storage):
    """Before the corpus is prepared; a dry run says it, because --then may make it first."""
    given = [f"run.storage={storage}", "demo.enabled=true", "train.init_from=/absent"]
    assert "/absent: no such folder" in refused(capsys, *given)
    assert not storage.exists()
    assert main(pretrain.VERB, ["--dry-run", *given]) == 0
    assert "/absent, which is not there yet" in capsys.readouterr().out


def test_shards_that_are_not_there(capsys, storage, tmp_path):
    vocab = write_vocabulary(tmp_path / "vocab.txt")
    given = [f"run.storage={storage}", f"corpus.vocab={vocab}", "train.shards=[/absent@1]"]
    assert "/absent" in refused(capsys, *given)
    assert main(pretrain.VERB, ["--dry-run", *given]) == 0
    assert "read │ /absent@1, which is not there yet" in " ".join(capsys.readouterr().out.split())


def test_a_vocabulary_that_the_shards_were_not_made_with(capsys, storage, tmp_path):
    vocab = write_vocabulary(tmp_path / "vocab.txt")
    shards = write_corpus(tmp_path / "shards", vocab, documents=4)
    other = tmp_path / "other.txt"
    other.write_text(vocab.read_text("utf-8") + "多\n", "utf-8")
    settings = [f"run.storage={storage}", f"train.shards=[{shards}]"]
    assert "another vocabulary" in refused(capsys, *settings, f"corpus.vocab={other}")
    assert "no such vocabulary" in refused(capsys, *settings, "corpus.vocab=nowhere.txt")
    assert not storage.exists()


def test_a_finished_run_under_other_settings(capsys, tmp_path):
    from pipeline.errors import ConfigError
    from pipeline.stages import pretraining
    from tests.reported import Lines
    from tests.small_run import fit, settings

    config = settings(tmp_path, "finished", "train.steps=6")
    fit(config)
    optim = config.optim.model_copy(update={"lr": 0.5})
    changed = config.model_copy(update={"optim": optim})
    with pytest.raises(
        ConfigError, match=r"optim\.lr: 0\.01 → 0\.5[\s\S]*choose another run\.name"
    ):
        pretraining.pretrain(changed, Lines())
    network = config.model.model_copy(update={"hidden_size": 64})
    with pytest.raises(ConfigError, match=r"model\.hidden_size: 32 → 64"):
        pretraining.pretrain(config.model_copy(update={"model": network}), Lines())


def test_next_commands_have_settings_that_exist(tmp_path):
    config = load_config("jobs/configs/demo.yaml", [f"run.storage={tmp_path}/my runs"])
    commands = [shlex.split(line) for line in output.next_commands(config, None)]
    verbs = [words for words in commands if words[:2] == ["python", "-m"]]
    assert {words[2] for words in verbs} == {"jobs.predict", "jobs.finetune"}
    for words in verbs:
        load_config(None, words[3:])
        assert any(f"{tmp_path}/my runs" in word for word in words)
    own = load_config(None, ["heads.mood.task=pair"])
    assert any(
        "heads/mood-pretrained predict.input=FILE" in s for s in output.next_commands(own, "")
    )


def test_what_will_be_done_names_stages_and_their_time(monkeypatch, storage):
    monkeypatch.setattr(output.estimate, "stage_seconds", lambda _: {"pretrain": 240, "heads": 50})
    config = load_config("jobs/configs/demo.yaml", [f"run.storage={storage}"])
    rows = output.todo(config)
    assert list(rows) == ["sample", "vocabulary", "prepare", "pretrain", "export", "heads", "all"]
    assert rows["pretrain"].endswith("samples: about 4 minutes")
    assert rows["heads"].endswith("about 50 seconds")
    assert rows["all"].startswith("about 5 minutes")
    assert not storage.exists()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ([], True),
        (["train.steps=57000"], False),
        (["optim.lr=1e-2"], False),
        (["optim.name=adamw"], False),
        (["train.init_from=export"], False),
    ],
)
def test_a_rate_at_which_hardly_anything_is_learnt_is_told_before(monkeypatch, settings, told):
    monkeypatch.setattr(output.estimate, "stage_seconds", lambda _: {})
    note = output.todo(load_config(None, settings)).get("low rate", "")
    assert ("by at most 0.18 of their norm in 1,000 steps" in note) is told


def test_no_recipe_has_a_rate_at_which_hardly_anything_is_learnt():
    recipes = [load_config(path, []) for path in Path("jobs/configs").glob("*.yaml")]
    trained = [each for each in recipes if each.corpus.inputs or each.demo.enabled]
    assert len(trained) > 5
    assert not any(map(dry_run.low_rate, trained))
