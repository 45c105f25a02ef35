"""A small export with random weights, and task data that can be learnt in seconds."""

import json
import random

import pytest
import torch

from model import NezhaConfig, NezhaForPreTraining
from model.weights.remote_code import write_remote_code
from pipeline.corpus.samples.vocabulary import build_tokenizer
from pipeline.export.tokenizer import for_transformers
from pipeline.settings.finetuning import FinetuneSettings

CHARACTERS = "在京沪港张王李赵明华说了好坏书店很太的是一二三四五六七八九十，。？！"
WORDS = ["play", "##ing", *"0123456789abc", *(f"##{c}" for c in "0123456789abc")]


@pytest.fixture(scope="session")
def export(tmp_path_factory):
    return make_export(tmp_path_factory.mktemp("run") / "export")


def make_export(folder):
    """A Hugging Face folder as `jobs.export` makes it: 2 layers of 32."""
    folder.mkdir()
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *CHARACTERS, *WORDS]
    vocab += [f"[unused{i}]" for i in range(1, 60)]
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n", "utf-8")
    torch.manual_seed(0)
    config = NezhaConfig(
        vocab_size=len(vocab),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.1,
    )
    network = NezhaForPreTraining(config)
    network.save_pretrained(folder)
    write_remote_code(folder, network.config)
    tokenizer = build_tokenizer(folder / "vocab.txt", lowercase=True)
    for_transformers(tokenizer).save_pretrained(folder)
    return folder


def write_rows(path, *rows):
    """A file with a row in each line: JSON, or a string as it is. Its name."""
    text = (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text("".join(f"{line}\n" for line in text), "utf-8")
    return str(path)


def review(draw):
    label = draw.randrange(2)
    text = [draw.choice("书店很太的是一二三") for _ in range(draw.randrange(3, 12))]
    text[draw.randrange(len(text))] = "坏好"[label]
    return {"text": "".join(text), "label": label}


def pair(draw):
    row = review(draw)
    return {"sentence1": row["text"], "sentence2": "很好", "label": ["否", "是"][row["label"]]}


def sentence(draw):
    tokens, labels = [], []
    for _ in range(draw.randrange(1, 4)):
        person, place = draw.choice("张王李赵") + draw.choice("明华"), draw.choice("京沪港")
        tokens += [*person, "在", place, "，"]
        labels += ["B-PER", "I-PER", "O", "B-LOC", "O"]
    return {"tokens": tokens, "labels": labels}


def question(draw):
    choices = [draw.choice("书店很太的") + "坏" for _ in range(draw.choice((2, 3)))]
    answer = draw.randrange(len(choices))
    choices[answer] = draw.choice("书店很太的") + "好"
    return {"context": "书店", "question": "？", "choices": choices, "answer": answer}


def passage(draw):
    before = "".join(draw.choice("书店很太的") for _ in range(draw.randrange(0, 40)))
    after = "".join(draw.choice("一二三") for _ in range(draw.randrange(0, 40)))
    answer = draw.choice("张王") + draw.choice("明华")
    context = f"{before}{answer}{after}"
    return {
        "context": context,
        "question": "是？",
        "answers": [{"text": answer, "start": len(before)}],
    }


def topics(draw):
    text = "".join(draw.choice("书店很太的是一二三张京") for _ in range(draw.randrange(3, 12)))
    labels = [name for name, sign in (("人", "张"), ("地", "京"), ("书", "书")) if sign in text]
    return {"text": text, "labels": labels}


def praise(draw):
    text = "".join(draw.choice("书店很太的好") for _ in range(8))
    return {"text": text, "label": text.count("好") / 2}


def alike(draw):
    row = praise(draw)
    return {"sentence1": "很好", "sentence2": row["text"], "label": row["label"]}


MAKERS = {
    "classification": review,
    "multilabel": topics,
    "regression": praise,
    "similarity": alike,
    "pair": pair,
    "ner": sentence,
    "choice": question,
    "span": passage,
}


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """For each task its train, dev and test files."""
    folder = tmp_path_factory.mktemp("data")
    sizes = {"train": 240, "dev": 60, "test": 60}
    return {
        task: {
            split: write_rows(
                folder / f"{task}-{split}.jsonl",
                *(make(draw) for draw in [random.Random(split)] for _ in range(size)),
            )
            for split, size in sizes.items()
        }
        for task, make in MAKERS.items()
    }


def settings(task, data, **more):
    values = {
        "task": task,
        "lr": 5e-3,
        "batch": 16,
        "dropout": 0.1,
        "data": data[task] | {"length": 48},
    } | more
    return FinetuneSettings.model_validate(values)
