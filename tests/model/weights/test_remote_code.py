"""A saved folder, read in a process that has never heard of this repository."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from transformers import BertTokenizer

import model as nezha
from model.weights.remote_code import AUTO_MAP, flat_code, write_remote_code

ROOT = Path(__file__).parents[3]

READER = """
import json, sys
import torch, transformers

folder, again = sys.argv[1:]
assert not any(name == "model" or name.startswith("model.") for name in sys.modules)
ids = torch.tensor([[2, 7, 8, 3, 9, 3], [2, 9, 9, 9, 3, 0]])
found = {}
for auto in json.load(open(folder + "/config.json"))["auto_map"]:
    if auto != "AutoConfig":
        net = getattr(transformers, auto).from_pretrained(folder, trust_remote_code=True).eval()
        inputs = ids[:, None] if auto == "AutoModelForMultipleChoice" else ids
        with torch.no_grad():
            found[auto] = [type(net).__name__, net(inputs).to_tuple()[0].double().sum().item()]
net = transformers.AutoModelForPreTraining.from_pretrained(folder, trust_remote_code=True)
net.save_pretrained(again)
transformers.AutoModelForMaskedLM.from_pretrained(again, trust_remote_code=True)
encoder, heads = folder + "/encoder", []
transformers.AutoModel.from_pretrained(folder, trust_remote_code=True).save_pretrained(encoder)
for auto in json.load(open(encoder + "/config.json"))["auto_map"]:
    if auto != "AutoConfig":
        net = getattr(transformers, auto).from_pretrained(encoder, trust_remote_code=True)
        heads.append(type(net).__name__)
fill = transformers.pipeline("fill-mask", model=folder, trust_remote_code=True)
filled = fill("我们[MASK]北京")[0]["token_str"]
print(json.dumps({"models": found, "from_encoder": heads, "filled": filled}))
"""


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A folder, and what another process found in it."""
    folder = tmp_path_factory.mktemp("export")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"我们在北京上海"]
    config = nezha.NezhaConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=37,
    )
    torch.manual_seed(0)
    net = nezha.NezhaForPreTraining(config)
    net.save_pretrained(folder)
    write_remote_code(folder, net.config)
    BertTokenizer(vocab={word: i for i, word in enumerate(words)}).save_pretrained(folder)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", READER, str(folder), str(folder / "again")],
        cwd=folder.parent,
        env=environment | {"HF_HOME": str(folder.parent / "cache"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout.splitlines()[-1])


def test_every_auto_class_finds_its_class(read: tuple[Path, dict]) -> None:
    names = {auto: path.split(".")[1] for auto, path in AUTO_MAP.items() if auto != "AutoConfig"}
    assert {auto: read[1]["models"][auto][0] for auto in names} == names
    assert names == {auto.__name__: net.__name__ for auto, net in nezha.AUTO_CLASSES.items()}


@pytest.mark.parametrize(
    "head", [nezha.NezhaModel, nezha.NezhaForPreTraining, nezha.NezhaForMaskedLM]
)
def test_logits_are_the_same(head: type, read: tuple[Path, dict]) -> None:
    net = head.from_pretrained(read[0]).eval()
    with torch.no_grad():
        here = net(torch.tensor([[2, 7, 8, 3, 9, 3], [2, 9, 9, 9, 3, 0]])).to_tuple()[0]
    there = dict(read[1]["models"].values())
    assert there[head.__name__] == pytest.approx(here.double().sum().item(), abs=1e-4)


def test_fill_mask_pipeline(read: tuple[Path, dict]) -> None:
    assert read[1]["filled"]


def test_a_saved_encoder_carries_the_code_of_every_head(read: tuple[Path, dict]) -> None:
    """transformers copies the files that the text of the saved class's file imports."""
    assert set(read[1]["from_encoder"]) == {each.__name__ for each in nezha.AUTO_CLASSES.values()}


def test_an_older_transformers_is_told_which_one_is_needed(monkeypatch) -> None:
    """By the file that transformers reads first."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    (needed,) = (x for x in project["dependencies"] if x.startswith("transformers"))
    monkeypatch.setattr("importlib.metadata.version", lambda _: "4.57.6")
    code = flat_code()[AUTO_MAP["AutoConfig"].split(".")[0] + ".py"]
    with pytest.raises(ImportError, match=f"{needed} is required"):
        exec(compile(code, "configuration", "exec"), {"__name__": "configuration"})
