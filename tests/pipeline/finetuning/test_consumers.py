"""Heads and exports in other programs give the answers that were judged."""

import json
import subprocess
import sys

import pytest
from transformers import AutoTokenizer, pipeline

from pipeline.finetuning.prediction.predict import Head
from pipeline.finetuning.tasks import TASKS
from pipeline.finetuning.tasks.base import TaskSetup
from pipeline.settings.finetuning import FinetuneSettings
from tests.pipeline.finetuning.conftest import write_rows
from tests.pipeline.finetuning.in_process import finetune


@pytest.fixture(scope="module")
def heads(export, data, tmp_path_factory):
    """Folders of heads that have learnt their tasks, by task."""
    folder = tmp_path_factory.mktemp("heads")
    for task in ("ner", "pair", "multilabel"):
        values = {"task": task, "epochs": 4, "lr": 5e-3, "batch": 16, "dropout": 0.0}
        chosen = FinetuneSettings.model_validate(values | {"data": data[task] | {"length": 48}})
        finetune(chosen, str(export), folder / task, seed=1)
    return folder


def answers_of(folder, *examples):
    head = Head.load(str(folder))
    return head.answers([head.example(each, "here") for each in examples])


def test_the_token_classification_pipeline_gives_the_entities_of_a_sentence(heads):
    text = "王明在京，李华在沪，"
    given = pipeline("token-classification", str(heads / "ner"), aggregation_strategy="simple")
    found = [(each["entity_group"], each["start"], each["end"]) for each in given(text)]
    (expected,) = answers_of(heads / "ner", {"text": text})
    assert found == [(each["type"], each["start"], each["end"]) for each in expected["entities"]]
    assert [text[start:end] for _, start, end in found] == ["王明", "京", "李华", "沪"]


def test_the_tokenizer_of_a_head_for_entities_cuts_texts_as_its_examples_were_cut(heads, export):
    text = "王明2019在京，AI李华 在沪，"
    kept = AutoTokenizer.from_pretrained(heads / "ner")
    places = kept(text, return_offsets_mapping=True, add_special_tokens=False)["offset_mapping"]
    assert [text[start:end] for start, end in places] == [*text.replace(" ", "")]
    given = pipeline("token-classification", str(heads / "ner"), aggregation_strategy="simple")
    found = [(each["entity_group"], each["start"], each["end"]) for each in given(text)]
    (expected,) = answers_of(heads / "ner", {"text": text})
    assert found == [(each["type"], each["start"], each["end"]) for each in expected["entities"]]
    words = AutoTokenizer.from_pretrained(export, trust_remote_code=True)
    TASKS["ner"].cut_as_trained(TaskSetup(words, (), 48), [{"tokens": ["王", "2019"]}])
    parts = words.backend_tokenizer.pre_tokenizer.pre_tokenize_str("王 2019")
    assert parts == [("王", (0, 1)), ("2019", (2, 6))]


def test_the_text_classification_pipeline_gives_our_probabilities(heads):
    """Of pairs, for which it must see the segments, and of several labels, whose sum is not 1."""
    pair = {"sentence1": "书店很好", "sentence2": "很好"}
    (expected,) = answers_of(heads / "pair", pair)
    given = pipeline("text-classification", str(heads / "pair"), top_k=None)
    found = given({"text": pair["sentence1"], "text_pair": pair["sentence2"]})
    assert {each["label"]: each["score"] for each in found} == pytest.approx(
        expected["probabilities"], abs=1e-2
    )
    (expected,) = answers_of(heads / "multilabel", {"text": "张在京"})
    given = pipeline("text-classification", str(heads / "multilabel"), top_k=None)
    (found,) = given(["张在京"])
    assert {each["label"]: each["score"] for each in found} == pytest.approx(
        expected["probabilities"], abs=1e-2
    )


def test_a_text_is_cut_into_the_words_that_a_head_for_entities_was_trained_on(export, tmp_path):
    rows = [
        {"tokens": ["王", name, "2019", "play", "京"], "labels": [*"OO", "B-YEAR", "O", "B-LOC"]}
        for name in "明华" * 20
    ]
    data = {"train": write_rows(tmp_path / "train.jsonl", *rows), "length": 16}
    values = {"task": "ner", "epochs": 8, "lr": 5e-3, "batch": 8, "dropout": 0.0, "data": data}
    finetune(FinetuneSettings.model_validate(values), str(export), tmp_path / "head", seed=1)
    head, text = Head.load(str(tmp_path / "head")), "王明2019 play京"
    example = head.example(text, "here")
    assert example == head.example({"text": text}, "here")
    assert example["tokens"] == ["王", "明", "2019", " ", "play", "京"]
    assert head.example("[SEP]a", "here")["tokens"] == [*"[SEP]a"]
    (answer,) = head.answers([example])
    found = [(each["type"], each["start"], each["end"]) for each in answer["entities"]]
    assert found == [("YEAR", 2, 6), ("LOC", 11, 12)]
    plain = pipeline("token-classification", str(tmp_path / "head"), aggregation_strategy="first")
    assert found == [(each["entity_group"], each["start"], each["end"]) for each in plain(text)]


@pytest.mark.parametrize("word", ["play", "2019"])
def test_most_examples_tell_whether_a_text_is_cut_into_words(word, export, tmp_path):
    """A few odd words of several characters, as an emoji, do not turn characters into words."""
    odd = {"tokens": ["好", "☺️", "……", "王"], "labels": ["O"] * 4}
    for tokens in ["王", *word, "在"], ["王", word, "在"]:
        row = {"tokens": tokens, "labels": ["B-PER", *"O" * (len(tokens) - 1)]}
        data = {"train": write_rows(tmp_path / "train.jsonl", odd, row, row), "length": 16}
        data["test"] = write_rows(tmp_path / "test.jsonl", {"text": f"王{word}在"})
        values = {"task": "ner", "epochs": 1, "data": data}
        finetune(FinetuneSettings.model_validate(values), str(export), tmp_path / "head", seed=1)
        head = Head.load(str(tmp_path / "head"))
        assert head.example(f"王{word}在", "here")["tokens"] == tokens
        (line,) = (tmp_path / "head" / "predictions.jsonl").read_text("utf-8").splitlines()
        assert json.loads(line)["tokens"] == tokens


def test_other_programs_cut_texts_as_in_training_but_no_entities(export, heads):
    lengths = [
        AutoTokenizer.from_pretrained(folder).model_max_length
        for folder in (heads / "pair", heads / "multilabel", heads / "ner", export)
    ]
    assert lengths[:2] == [48, 48]
    assert lengths[2] == lengths[3] > 48


def test_the_text_classification_pipeline_gives_our_probabilities_for_a_long_text(heads):
    text = "张在京" + "店" * 60 + "书书书"
    (expected,) = answers_of(heads / "multilabel", {"text": text})
    given = pipeline("text-classification", str(heads / "multilabel"), top_k=None)
    (found,) = given([text], truncation=True)
    assert {each["label"]: each["score"] for each in found} == pytest.approx(
        expected["probabilities"], abs=1e-2
    )


@pytest.mark.slow
def test_sentence_transformers_takes_exports_and_pair_heads(export, heads, tmp_path):
    """In a process of its own: it is no dependency, and what it saves must load as any head."""
    pytest.importorskip("sentence_transformers")
    code = f"""
import json
from sentence_transformers import CrossEncoder, SentenceTransformer
from transformers import AutoModelForTokenClassification
trusted = dict(trust_remote_code=True, device="cpu")
encoder = SentenceTransformer({str(export)!r}, **trusted)
assert encoder.encode(["书店很好", "坏"]).shape == (2, 32)
encoder.save("saved")
AutoModelForTokenClassification.from_pretrained("saved", trust_remote_code=True)
cross = CrossEncoder({str(heads / "pair")!r}, **trusted)
print(json.dumps(cross.predict([("书店很好", "很好")], apply_softmax=True).tolist()))
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    (expected,) = answers_of(heads / "pair", {"sentence1": "书店很好", "sentence2": "很好"})
    (found,) = json.loads(done.stdout.splitlines()[-1])
    assert found == pytest.approx(list(expected["probabilities"].values()), abs=1e-2)
