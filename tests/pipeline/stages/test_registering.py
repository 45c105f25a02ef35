"""Registered heads and exports: served without this repository, and linked in the registry."""

import ast
import importlib
import importlib.metadata
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import mlflow
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from jobs import promote
from jobs.command import main
from pipeline.files.hashing import hash_of
from pipeline.finetuning.examples.task_file import DataMistakes, read_task_file
from pipeline.finetuning.prediction import carried_code
from pipeline.finetuning.prediction.predict import Head
from pipeline.finetuning.tasks import TASKS
from pipeline.settings.finetuning import FinetuneSettings
from pipeline.settings.reading.config_file import load_config
from pipeline.stages import registering
from pipeline.tracking import registry, versions
from pipeline.tracking import runs as tracking
from pipeline.tracking.store import tracking_uri
from pipeline.tracking.versions import ComparedScore
from tests.pipeline.finetuning.conftest import data, export  # noqa: F401
from tests.pipeline.finetuning.in_process import finetune

TEXTS = {
    "ner": {"text": "王明在京，李华说"},
    "span": {"context": "书店张明一二三", "question": "是？"},
    "choice": {"context": "书店", "question": "？", "choices": ["书坏", "太好"]},
    "pair": {"sentence1": "书好", "sentence2": "很好"},
    "similarity": {"sentence1": "书好", "sentence2": "很好"},
}
BLANK = {"ner": {"text": " "}, "span": {"context": " ", "question": "是？"}}


def text_of(task):
    return TEXTS.get(task, {"text": "书店很好"})


@pytest.fixture(scope="module")
def heads(export, data, tmp_path_factory):  # noqa: F811
    """For each task a head of one short epoch, its run and its place in the registry."""
    storage = tmp_path_factory.mktemp("storage")
    config = load_config(None, [f"run.storage={storage}"])
    made = {}
    for task in TASKS:
        files = data.get(task) or data["classification"]
        values = {"task": task, "epochs": 1, "lr": 5e-3, "data": files | {"length": 48}}
        chosen = FinetuneSettings.model_validate(values | {"dropout": 0.0, "precision": "fp32"})
        result = finetune(chosen, str(export), storage / "heads" / task, seed=1)
        run_id = tracking.start_run(config, task, {})
        made[task] = (
            result,
            run_id,
            registering.register_head(config, storage / "heads" / task, run_id),
        )
    return config, made


def alike(one, other):
    """Whether two answers are equal, their numbers within rounding."""
    if isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in other)
    if isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    return one == (pytest.approx(other, abs=1e-6) if isinstance(other, float) else other)


@pytest.mark.slow
def test_heads_answer_in_a_process_that_has_not_this_repository(heads, tmp_path):
    config, made = heads
    code = """
import json, sys
sys.modules["seqeval"] = sys.modules["zstandard"] = sys.modules["ray"] = sys.modules["jieba"] = None
import mlflow
uri, given = json.loads(sys.argv[1])
mlflow.set_tracking_uri(uri)
found = {}
for task, (model, rows) in given.items():
    head = mlflow.pyfunc.load_model(model)
    assert head.metadata.signature.inputs and head.metadata.signature.outputs
    assert head.input_example is not None
    found[task] = head.predict(rows).to_dict("records")
assert not any(name in sys.modules for name in ("pipeline", "model"))
print(json.dumps(found))
"""
    given = {
        task: (made[task][2].uri, [text_of(task), BLANK.get(task, text_of(task)), text_of(task)])
        for task in TASKS
    }
    arguments = json.dumps((tracking_uri(config), given))
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, arguments],
        cwd=tmp_path,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    for task in TASKS:
        head = Head.load(made[task][0].folder)
        expected = head.answers([head.example(text_of(task), "here")])[0]
        first, second, third = found[task]
        assert alike(first, third)  # padded to other lengths in its batch
        assert first.keys() == expected.keys() == TASKS[task].answer_form.keys()
        assert alike(first, json.loads(json.dumps(expected))), task
        if task in BLANK:
            assert set(second.values()) == {None}


def test_an_environment_for_serving_has_what_the_code_of_a_head_imports():
    """pip installs the requirements of a head, what they need, and nothing else."""
    brought = set()
    waiting = [Requirement(pin).name for pin in registry.requirements(registry.HEAD_NEEDED)]
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name not in brought:
            brought.add(name)
            needs = map(Requirement, importlib.metadata.requires(name) or [])
            waiting += [n.name for n in needs if not n.marker or n.marker.evaluate({"extra": ""})]
    imported = set()
    for path in carried_code.modules_of(registering.SERVED):
        for node in ast.parse(path.read_text("utf-8")).body:  # not what functions import, or `try`
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(str(node.module).partition(".")[0])
    packages = importlib.metadata.packages_distributions()
    # Kernels are imported where Triton is, and scores (seqeval) are not served.
    others = {"triton", "seqeval", *carried_code.OWN}
    missing = {
        name
        for name in imported - others
        if name in packages and not brought & set(map(canonicalize_name, packages[name]))
    }
    assert not missing


@pytest.mark.long
def test_mlflow_serves_a_head_over_http(heads, tmp_path):
    config, made = heads
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # MLflow starts the command `uvicorn`, which the environment of this Python has.
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {"MLFLOW_TRACKING_URI": tracking_uri(config), "PATH": programs}
    place = ["--host", "127.0.0.1", "--port", str(port)]
    command = ["models", "serve", "-m", made["ner"][2].uri, "--env-manager", "local", *place]
    server = subprocess.Popen(
        [sys.executable, "-P", "-m", "mlflow", *command],
        cwd=tmp_path,
        env=os.environ | environment,
        start_new_session=True,
    )
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/invocations",
        json.dumps({"dataframe_records": [text_of("ner")]}).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        for _ in range(240):
            try:
                answer = json.loads(urllib.request.urlopen(request).read())
                break
            except OSError:
                assert server.poll() is None
                time.sleep(1)
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
        server.wait()
    (found,) = answer["predictions"]
    assert len(found["labels"]) == len(text_of("ner")["text"])
    for entity in found["entities"]:
        assert text_of("ner")["text"][entity["start"] : entity["end"]] == entity["text"]


def test_what_the_registry_says_of_a_head(heads, data):  # noqa: F811
    config, made = heads
    client = mlflow.MlflowClient(tracking_uri(config))
    result, run_id, registered = made["pair"]
    assert registered.uri == "models:/nezha-pair@candidate"
    assert registered.note == "nezha-pair: version 1 is candidate and champion"
    version = client.get_model_version_by_alias("nezha-pair", "champion")
    assert version.run_id == run_id
    assert version.tags["task"] == "pair"
    assert float(version.tags["judged_value"]) == pytest.approx(result.test["accuracy"])
    truth = read_task_file(TASKS["pair"], data["pair"]["test"], DataMistakes.none())
    assert version.tags["judged_on"] == hash_of(truth), "what was judged, not the file"
    assert len(version.tags["git_commit"]) >= 40
    used = client.get_run(run_id).inputs.dataset_inputs
    assert {each.tags[0].value for each in used} == {"train", "dev", "test"}
    files = mlflow.pyfunc.get_model_dependencies(registered.uri, format="pip")
    pins = Path(files).read_text()
    assert f"mlflow=={mlflow.__version__}" in pins
    assert "+cpu" not in pins


def test_a_head_of_any_name_and_its_export_name_each_other(heads, tmp_path):
    config, made = heads
    client = mlflow.MlflowClient(tracking_uri(config))
    run_id = tracking.start_run(config, "pretraining", {})
    logged = versions.Logged(str(tmp_path), run_id)
    versions.register_version(client, config, "nezha", logged, {}, None)
    head = shutil.copytree(made["classification"][0].folder, tmp_path / "情感（酒店） 50%")
    (tmp_path / "training.json").write_text(json.dumps({"mlflow_run": run_id}), "utf-8")
    results = json.loads((head / "results.json").read_text("utf-8")) | {"export": str(tmp_path)}
    (head / "results.json").write_text(json.dumps(results), "utf-8")
    registering.register_head(config, head, run_id)
    name = f"nezha-{head.name}"
    assert client.get_model_version(name, "1").tags["export_version"] == "nezha/1"
    assert f"{name}/1" in client.get_model_version("nezha", "1").tags.values()


def test_champion_moves_to_what_is_better_on_the_same_data(tmp_path, monkeypatch, capsys):
    config = load_config(None, [f"run.storage={tmp_path}"])
    client = mlflow.MlflowClient(tracking_uri(config))
    tracking.start_run(config, "any", {})

    def add(judged):
        client.create_registered_model("m") if not client.search_registered_models() else None
        logged = versions.Logged(str(tmp_path))
        return versions.register_version(client, config, "m", logged, {}, judged).note

    def loss(value, on="a"):
        return ComparedScore("loss", value, on, lower_is_better=True)

    assert add(loss(2.0)).endswith("and champion")
    assert "its loss is 2.1000, and that of version 1 is 2.0000" in add(loss(2.1))
    assert "judged on other data" in add(loss(1.0, "b"))
    assert "nothing was measured" in add(None)
    assert add(loss(1.9)).endswith("version 5 is candidate and champion")
    assert (
        main(promote.VERB, [f"run.storage={tmp_path}", "promote.model=m", "promote.version=3"]) == 0
    )
    assert int(client.get_model_version_by_alias("m", "champion").version) == 3
    assert "is version 3; it was version 5" in capsys.readouterr().out
    assert (
        main(promote.VERB, [f"run.storage={tmp_path}", "promote.model=m", "promote.version=9"]) == 2
    )


def test_carried_modules_import_each_other_under_another_name(tmp_path):
    _, package = carried_code.write_model(registering.SERVED, tmp_path)
    texts = {path: path.read_text("utf-8") for path in package.rglob("*.py")}
    assert package / "pipeline" / "finetuning" / "tasks" / "entities.py" in texts
    assert not any(carried_code.OWN_IMPORT.search(text) for text in texts.values())
    assert not any("training" in path.parts for path in texts)


def test_heads_of_two_versions_of_this_code_run_with_their_own(tmp_path, monkeypatch):
    """In one program, as where a candidate is compared with the champion."""
    (tmp_path / "model").mkdir()
    monkeypatch.setattr(carried_code, "ROOT", tmp_path)
    found = []
    for version in (1, 2):
        (tmp_path / "model" / "any.py").write_text(f"version = {version}", "utf-8")
        _, package = carried_code.write_model("model.any", tmp_path / str(version))
        monkeypatch.syspath_prepend(package.parent)
        found.append(importlib.import_module(f"{package.name}.model.any").version)
    assert found == [1, 2]
