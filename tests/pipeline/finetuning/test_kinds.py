"""Examples to rows and back: logits made from the targets give the right answers."""

import contextlib
import random
import string

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from pipeline.corpus.samples.vocabulary import build_tokenizer
from pipeline.finetuning import network as networks
from pipeline.finetuning import tasks
from pipeline.finetuning.kinds import KINDS, Setup
from pipeline.finetuning.rows import IGNORED, collate

from .conftest import MAKERS

SEPARATORS = {"classification": 1, "pair": 2, "ner": 1, "choice": 2, "span": 2}


def perfect_logits(task, row, labels):
    """What a network that knows the targets would say."""
    if task == "span":
        logits = np.zeros((2, row.length), np.float32)
        # A window without the answer is less sure than the one that holds it.
        logits[range(2), row.target] = 1.0 if row.target == [0, 0] else 9.0
        return logits
    if task == "ner":
        wanted = [0 if label == IGNORED else label for label in row.target]
        return 9 * np.eye(len(labels), dtype=np.float32)[wanted]
    return 9 * np.eye(len(labels) or len(row.inputs), dtype=np.float32)[row.target[0]]


def check_round_trip(task, examples, tokenizer, length):
    kind, labels = KINDS[task], tasks.label_set(task, examples)
    setup = Setup(tokenizer, labels, length)
    rows = kind.rows(examples, setup)
    for row in rows:
        assert 0 < row.length <= length
        for each in row.inputs:
            assert each.ids[0] == tokenizer.cls_token_id
            assert each.ids[-1] == tokenizer.sep_token_id
            assert each.ids.count(tokenizer.sep_token_id) == SEPARATORS[task]
            assert len(each.types) == len(each.ids)
            assert max(each.types) == SEPARATORS[task] - 1
    own = [[row for row in rows if row.example == i] for i in range(len(examples))]
    answers = [
        kind.answer(example, mine, [perfect_logits(task, row, labels) for row in mine], setup)
        for example, mine in zip(examples, own, strict=True)
    ]
    return kind.scores(examples, answers), rows


@pytest.fixture(scope="module")
def tokenizer(export):
    return networks.load_tokenizer(str(export))


@pytest.mark.parametrize("task", KINDS)
@pytest.mark.parametrize("length", [24, 64])
def test_perfect_logits_give_perfect_scores(task, length, tokenizer):
    draw = random.Random(length)
    examples = [MAKERS[task](draw) for _ in range(50)]
    for example in examples:
        tasks.check_target(task, example, "here")
    scores, _ = check_round_trip(task, examples, tokenizer, length)
    assert set(scores.values()) == {1.0}


@pytest.mark.parametrize("length", [8, 9, 12, 16, 18, 64])
@pytest.mark.parametrize("question", ["北京" * 40, "한국말" * 30])
def test_a_question_leaves_room_to_the_context(question, length, tokenizer):
    """Also in Hangul, of which a syllable may be three tokens."""
    example = {"context": "天安门在北京的中心" * 4, "question": question}
    rows = KINDS["span"].rows([example], Setup(tokenizer, [], length))
    assert all(row.length <= length for row in rows)
    seen = {offsets for row in rows for offsets in row.origin if offsets[0] >= 0}
    assert seen == {(place, place + 1) for place in range(len(example["context"]))}


@pytest.mark.parametrize(
    ("folder", "task", "length", "least"),
    [
        ("peoples_daily_ner", "ner", 64, 1.0),
        ("cmrc2018", "span", 384, 0.99),
        ("c3", "choice", 256, 1.0),
        ("ocnli", "pair", 64, 1.0),
        ("chnsenticorp", "classification", 128, 1.0),
    ],
)
def test_the_same_on_public_sets(shared, folder, task, length, least):
    special = {
        f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")
    }
    fast = build_tokenizer(shared / "vocab" / "vocab.txt", lowercase=True)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=fast, **special)
    examples = tasks.read(task, str(shared / "tasks" / folder / "dev.jsonl.gz"))[:400]
    scores, rows = check_round_trip(task, examples, tokenizer, length)
    assert min(scores.values()) >= least
    if task in ("ner", "span"):
        assert len(rows) > len(examples)


@given(
    words=st.lists(
        st.text("北京ab1 \u200b𠀀" + string.punctuation, min_size=1, max_size=9),
        min_size=1,
        max_size=60,
    )
)
def test_every_word_gets_a_label_whatever_it_is(words, tokenizer):
    labels = ["O", "B-X", "I-X"]
    example = {"tokens": words, "labels": ["B-X"] * len(words)}
    setup = Setup(tokenizer, labels, 8)
    rows = KINDS["ner"].rows([example], setup)
    assert all(row.length <= 8 and len(row.target) == len(row.origin) == row.length for row in rows)
    places = [place for row in rows for place, _ in row.origin if place >= 0]
    kept = [bool(ids) for ids in tokenizer(words, add_special_tokens=False)["input_ids"]]
    assert places == [place for place, there in enumerate(kept) if there]
    logits = [perfect_logits("ner", row, labels) for row in rows]
    found = KINDS["ner"].answer(example, rows, logits, setup)
    assert found["labels"] == ["B-X" if there else "O" for there in kept]


@pytest.mark.parametrize("task", KINDS)
def test_a_row_says_the_same_whatever_it_is_padded_with(task, export, data, tokenizer, monkeypatch):
    monkeypatch.setattr(networks, "autocast", lambda device: contextlib.nullcontext())
    kind = KINDS[task]
    examples = tasks.read(task, data[task]["dev"])
    labels = tasks.label_set(task, examples)
    rows = kind.rows(examples, Setup(tokenizer, labels, 32))
    network = networks.build(kind, str(export), labels, 0.1, from_scratch=True)
    alone, together = (networks.infer(kind, network, rows, n, 0) for n in (1, len(rows)))
    for one, other in zip(alone, together, strict=True):
        assert one == pytest.approx(other[tuple(map(slice, one.shape))], abs=1e-5)


def test_the_loss_counts_what_counts():
    logits = torch.tensor([[[2.0, 0.0], [0.0, 3.0]], [[5.0, 1.0], [1.0, 1.0]]])
    target = torch.tensor([[0, 1], [IGNORED, IGNORED]])
    expected = -torch.log_softmax(logits[0], -1)[[0, 1], [0, 1]].mean()
    assert networks.loss_of(logits, target) == pytest.approx(float(expected))
    assert networks.loss_of(logits, torch.full((2, 2), IGNORED)) == 0


def test_absent_choices_get_no_probability(export, tokenizer):
    kind = KINDS["choice"]
    rows = kind.rows(
        [
            {"context": "好", "question": "？", "choices": ["一", "二", "三"], "answer": 0},
            {"context": "坏", "question": "？", "choices": ["一", "二"], "answer": 1},
        ],
        Setup(tokenizer, [], 32),
    )
    network = networks.build(kind, str(export), [], 0.1, from_scratch=True).eval()
    batch = collate(rows, tokenizer.pad_token_id, many=True)
    shares = networks.forward(kind, network, batch, networks.pick_device()).softmax(-1)
    assert shares[1, 2] == 0
    assert shares[:, :2].min() > 0
