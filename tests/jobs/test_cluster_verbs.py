"""The verbs that look at a cluster before a run."""

from types import SimpleNamespace

import pytest

from jobs import doctor, plan, submit
from jobs.command import main
from pipeline.cluster import submission
from pipeline.sizing import benchmark

BASE = "jobs/configs/nezha_base.yaml"


def test_a_plan_shows_time_memory_and_cost(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "activation_bytes", lambda *_: 1e5)
    machine = ["plan.device=A100-SXM", "scaling.workers=16", "plan.hourly_price=2"]
    given = ["--config", BASE, *machine, f"run.storage={tmp_path}"]
    assert main(plan.VERB, [*given, "--dry-run"]) == 0
    assert list(tmp_path.iterdir()) == []
    capsys.readouterr()
    assert main(plan.VERB, given) == 0
    shown = capsys.readouterr().out
    for words in ("102,489,226 parameters", "ZeRO 1 (chosen)", "days = 57,000 steps", "cost"):
        assert words in shown
    assert main(plan.VERB, ["--config", BASE, "plan.device=Abacus"]) == 2


@pytest.mark.ray
def test_the_doctor_names_what_is_wrong(ray_cluster, tmp_path, capsys):
    assert main(doctor.VERB, [f"run.storage={tmp_path}"]) == 0
    shown = capsys.readouterr().out
    assert "shared memory" in shown
    assert "What to do" in shown
    (tmp_path / "file").touch()
    assert main(doctor.VERB, [f"run.storage={tmp_path}/file"]) == 2


def test_a_submission_is_shown_and_a_mistake_is_told(tmp_path, capsys, monkeypatch):
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.setenv(name, "")
    given = ["prepare", "--config", "jobs/configs/demo.yaml", "--dry-run"]
    assert submit.main([*given, f"run.storage={tmp_path}"]) == 0
    assert capsys.readouterr().out.startswith(
        "RAY_API_SERVER_ADDRESS=http://127.0.0.1:8265 ray job submit "
    )
    assert submit.main([*given, "run.storage=runs"]) == 2
    assert "the job does not see files of this folder" in capsys.readouterr().err
    here = ["prepare", f"run.storage={tmp_path}", "--address", "http://127.0.0.1:9"]
    assert submit.main(here) == 2
    assert "no cluster answers" in capsys.readouterr().err


def test_ctrl_c_while_following_says_how_to_follow_again(tmp_path, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    here = SimpleNamespace(get_address=lambda: "http://head:8265")
    monkeypatch.setattr(submission, "connected", lambda address: here)
    monkeypatch.setattr(submission, "submit", lambda client, job: "small-prepare-2")
    monkeypatch.setattr(submission, "follow", interrupted)
    assert submit.main(["prepare", f"run.storage={tmp_path}", "--follow"]) == 130
    told = capsys.readouterr().err
    use = "RAY_API_SERVER_ADDRESS=http://head:8265 ray job logs -f small-prepare-2"
    assert f"interrupted; small-prepare-2 goes on\nfollow it by: {use}\n" in told
