"""Input that tries to run code, or to write outside the run's folder, is refused."""

import json
import pickle
import sys

import pytest
import xxhash
from safetensors import SafetensorError

from pipeline.errors import ConfigError, ExportError, NezhaError
from pipeline.finetuning import loading
from pipeline.finetuning.tasks import TASKS
from pipeline.paths import RunPaths
from pipeline.settings.reading.config_file import load_config
from pipeline.training.checkpoints import files, tensors
from tests.pipeline.finetuning.conftest import make_export
from tests.small_run import fit, settings


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


def test_a_pickle_with_mended_hashes_is_not_executed(tmp_path):
    config, marker = settings(tmp_path, "run", "train.steps=6"), tmp_path / "executed"
    fit(config)
    newest, file = files.newest(RunPaths.of(config).checkpoints), tensors.file_of(0)
    (newest / file).write_bytes(pickle.dumps(Payload(marker)))
    hashes = files.read_hashes(newest)
    hashes[file] = xxhash.xxh3_128((newest / file).read_bytes()).hexdigest()
    (newest / files.HASHES).write_text(json.dumps(hashes), "utf-8")
    files.verify(newest)
    longer = config.model_copy(update={"train": config.train.model_copy(update={"steps": 12})})
    with pytest.raises((NezhaError, SafetensorError)):
        fit(longer)
    assert not marker.exists()


@pytest.mark.parametrize("name", [".", "..", "../up", "/tmp/elsewhere", "a/b", "..\\up", "a\0b"])
@pytest.mark.parametrize("setting", ["run.name", "finetune.name", "heads"])
def test_names_that_leave_their_folder_are_refused(setting, name):
    value = json.dumps({name: {"task": "ner"}} if setting == "heads" else name)
    with pytest.raises(ConfigError, match=r"`\.\.`"):
        load_config(None, [f"{setting}={value}"])


def test_tags_of_yaml_are_refused_wherever_settings_are_read(tmp_path):
    marker = tmp_path / "executed"
    tag = f"!!python/object/apply:builtins.open [{marker}, w]"
    file = tmp_path / "config.yaml"
    file.write_text(f"run: {tag}\n", "utf-8")
    for given in ((file, []), (None, [f"train.steps={tag}"])):
        with pytest.raises(ConfigError, match="could not determine a constructor"):
            load_config(*given)
    (tmp_path / files.CONFIG).write_text(f"run: {tag}\n", "utf-8")
    with pytest.raises(NezhaError):
        files.read_config(tmp_path)
    assert not marker.exists()


@pytest.mark.parametrize("kind", ["nezha", "another"])
def test_code_in_an_export_is_not_executed(tmp_path, kind, monkeypatch):
    """Not even after a question: an answer on the terminal would allow it."""
    monkeypatch.setattr(sys.stdin, "readline", lambda: "y\n", raising=False)
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    export, marker = make_export(tmp_path / "export"), tmp_path / "executed"
    (export / "evil.py").write_text(
        f"open({str(marker)!r}, 'w')\n"
        "from transformers import PretrainedConfig\n"
        "class Config(PretrainedConfig):\n    model_type = 'another'\n",
        "utf-8",
    )
    config = json.loads((export / "config.json").read_text("utf-8"))
    config["auto_map"] = {
        name: "evil.Config" for name in ("AutoConfig", "AutoModelForTokenClassification")
    }
    config["model_type"] = kind
    (export / "config.json").write_text(json.dumps(config), "utf-8")
    try:
        loading.load_tokenizer(str(export))
        loading.build(TASKS["ner"], str(export), ["O"], 0.1, from_scratch=False)
    except ExportError:
        assert kind == "another"
    else:
        assert kind == "nezha"
    assert not marker.exists()
