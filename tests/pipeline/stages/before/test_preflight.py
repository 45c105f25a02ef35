"""What is refused before anything starts."""

import json

import pytest

from pipeline import cpu
from pipeline.corpus.run.inputs import list_inputs
from pipeline.errors import ConfigError
from pipeline.feed.fingerprints import FingerprintError
from pipeline.settings.reading.config_file import load_config, with_changes
from pipeline.stages.before import dry_run, preflight
from pipeline.training.launch import torchrun
from tests.pipeline.corpus import raw
from tests.small_run import fit, settings


def test_another_order_is_refused_before_workers_start(tmp_path):
    """Ray would start them again and again."""
    config = settings(tmp_path, "other", "train.steps=6")
    fit(config)
    preflight.check_data(config)
    with pytest.raises(FingerprintError, match="seed: was 42, is 7"):
        preflight.check_data(with_changes(config, {"run.seed": 7}, ""))


def test_a_dry_run_shows_deepspeeds_configuration(tmp_path):
    own = "engine.deepspeed={wall_clock_breakdown: true}"
    facts = dry_run.train_alone(settings(tmp_path, "dry", "scaling.workers=1", own))
    shown = json.loads(str(facts["DeepSpeed"]))
    assert shown["wall_clock_breakdown"]
    assert shown["gradient_accumulation_steps"] == 2


def test_a_dry_run_has_the_workers_that_the_run_will_have(monkeypatch):
    monkeypatch.setattr(preflight.torch.cuda, "device_count", lambda: 4)
    config = load_config(None, ["scaling.gpus_per_worker=0"])
    for quota, workers in (("max 100000", 2), ("100000 100000", 1)):
        monkeypatch.setattr(cpu.os, "sched_getaffinity", lambda _: set(range(8)))
        monkeypatch.setattr(cpu.Path, "read_text", lambda _, text=quota: text)
        assert preflight.split(config).world_size == workers
        assert preflight.split(load_config(None, [])).world_size == 4


def test_as_many_workers_as_processes(tmp_path, monkeypatch):
    config = settings(tmp_path, "workers", "scaling.workers=2")
    with pytest.raises(ConfigError, match=r"asks for 2 worker\(s\), and there are 1"):
        torchrun.with_workers(config)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert torchrun.with_workers(config) == config
    bounds = "scaling.min_workers=1", "scaling.max_workers=4"
    with pytest.raises(ConfigError, match="asks for a changing number of worker"):
        torchrun.with_workers(settings(tmp_path, "elastic", *bounds))


def test_settings_of_ray_are_refused_without_it(tmp_path):
    named = "scaling={workers: 1, gpus_per_worker: 0, wait_seconds: 60}"
    config = settings(tmp_path, "ray", named, "faults.max_failures=1")
    with pytest.raises(ConfigError) as error:
        torchrun.with_workers(config)
    assert "scaling.wait_seconds waits for nodes of a Ray cluster" in str(error.value)
    assert "faults.max_failures limits the restarts by Ray Train" in str(error.value)


def test_what_the_commands_write_is_never_read_as_text(tmp_path):
    source = raw.write(tmp_path / "a.jsonl", raw.jsonl(["字"]))
    for name in ("vocab/v.txt", "vocab/v.origin.json", "kept-heldout/too_short/0.jsonl"):
        raw.write(tmp_path / name, b"{}\n")
    raw.write(tmp_path / "runs" / "r" / "summary.json", b"{}\n")
    overrides = (f"corpus.vocab={tmp_path}/vocab/v.txt", f"corpus.keep_rejected={tmp_path}/kept")
    places = (f"run.storage={tmp_path}/runs", "run.name=r", f"corpus.inputs=[{tmp_path}]")
    config = load_config(None, [*places, *overrides])
    found = list_inputs(config.corpus, *preflight.written_by(config))
    assert [each.path for each in found.sources] == [str(source)]
