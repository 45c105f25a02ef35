"""Examples to features and back: logits made from the targets give the right answers."""

import contextlib
import itertools
import json
import random
import string

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus.samples.vocabulary import build_tokenizer
from pipeline.errors import TaskError
from pipeline.export.tokenizer import export_tokenizer, for_transformers
from pipeline.finetuning import loading
from pipeline.finetuning import network as networks
from pipeline.finetuning.examples.data import read_examples
from pipeline.finetuning.examples.task_file import DataMistakes, read_task_file
from pipeline.finetuning.judging.evaluation import Dataset
from pipeline.finetuning.tasks import TASKS
from pipeline.finetuning.tasks.base import TaskSetup
from pipeline.labels import IGNORED
from pipeline.settings.corpus import CleaningSettings
from pipeline.settings.finetuning import FinetuneSettings
from tests.pipeline.finetuning.conftest import MAKERS, write_rows

SEPARATORS = {task: min(2, len(TASKS[task].fields)) for task in TASKS}


def perfect_logits(task, feature, labels):
    """What a network that knows the targets would say."""
    if task == "span":
        logits = np.zeros((2, feature.length), np.float32)
        # A window without the answer is less sure than the one that holds it.
        logits[range(2), feature.target] = 1.0 if feature.target == [0, 0] else 9.0
        return logits
    if task in ("regression", "similarity"):
        return np.array(feature.target, np.float32)
    if task == "multilabel":
        return 9 * np.eye(2, dtype=np.float32)[feature.target]
    if task == "ner":
        wanted = [0 if label == IGNORED else label for label in feature.target]
        return 9 * np.eye(len(labels), dtype=np.float32)[wanted]
    return 9 * np.eye(len(labels) or len(feature.inputs), dtype=np.float32)[feature.target[0]]


def check_round_trip(task, examples, tokenizer, length):
    kind = TASKS[task]
    labels = kind.label_set(examples)
    setup = TaskSetup(tokenizer, labels, length)
    examples, features = Dataset.of(kind, examples, setup)
    for feature in features:
        assert 0 < feature.length <= length
        for each in feature.inputs:
            assert each.ids[0] == tokenizer.cls_token_id
            assert each.ids[-1] == tokenizer.sep_token_id
            assert each.ids.count(tokenizer.sep_token_id) == SEPARATORS[task]
            assert len(each.types) == len(each.ids)
            assert max(each.types) == SEPARATORS[task] - 1
    outputs = [[] for _ in examples]
    for feature in features:
        outputs[feature.example].append((feature, perfect_logits(task, feature, labels)))
    answers = [
        kind.answer(example, own, setup) for example, own in zip(examples, outputs, strict=True)
    ]
    return kind.scores(examples, answers), features


@pytest.fixture(scope="module")
def tokenizer(export):
    return loading.load_tokenizer(str(export))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("length", [24, 64])
def test_perfect_logits_give_perfect_scores(task, length, tokenizer):
    draw = random.Random(length)
    examples = [MAKERS[task](draw) for _ in range(50)]
    for example in examples:
        TASKS[task].check_target(example, "here")
    scores, _ = check_round_trip(task, examples, tokenizer, length)
    assert list(scores.values()) == pytest.approx([1.0] * len(scores))


@pytest.mark.parametrize(
    ("task", "stride"),
    # Windows of a context that share nothing would cut answers in two.
    [
        ("classification", 0),
        ("classification", 5),
        ("ner", 0),
        ("ner", 5),
        ("span", 3),
        ("span", 5),
    ],
)
def test_windows_overlap_and_are_merged(task, stride, tokenizer):
    """Every token is seen, and the windows of a long text give one answer."""
    draw = random.Random(stride)
    examples = [MAKERS[task](draw) for _ in range(30)]
    for example in examples:
        TASKS[task].check_target(example, "here")
        for key in {"classification": ("text",), "ner": ("tokens", "labels")}.get(task, ()):
            example[key] *= 3
    kind, labels = TASKS[task], TASKS[task].label_set(examples)
    setup = TaskSetup(tokenizer, labels, 20, stride)
    features = kind.features(examples, setup)
    assert len(features) > len(examples)
    outputs = [[] for _ in examples]
    for feature in features:
        outputs[feature.example].append((feature, perfect_logits(task, feature, labels)))
    for own in outputs:
        ids = [each.ids[1:-1] for feature, _ in own for each in feature.inputs]
        for before, after in itertools.pairwise(ids):
            if task != "span":  # whose windows begin with the question
                assert not stride or before[-stride:] == after[:stride]
        assert max(map(len, ids)) <= 18
    found = [kind.answer(*each, setup) for each in zip(examples, outputs, strict=True)]
    assert set(kind.scores(examples, found).values()) == {1.0}


def test_a_word_counts_as_the_window_sees_it_that_shows_most_around_it(tokenizer):
    kind, words = TASKS["ner"], list("在京沪港张王李赵明华说了")
    setup = TaskSetup(tokenizer, ["O", "B-X", "I-X"], 10, 4)
    first, second = kind.features([{"tokens": words}], setup)
    shared = {place for place, _ in first.origin} & {place for place, _ in second.origin} - {-1}
    assert len(shared) == 4
    outputs = []
    for number, feature in enumerate((first, second)):
        outputs.append((feature, 9 * np.eye(3)[[number] * feature.length]))
    labels = kind.answer({"tokens": words}, outputs, setup)["labels"]
    assert [labels[place] for place in sorted(shared)] == ["O", "O", "B-X", "B-X"]


@pytest.mark.parametrize("length", [8, 9, 12, 16, 18, 64])
@pytest.mark.parametrize("question", ["北京" * 40, "한국말" * 30])
def test_a_question_leaves_room_to_the_context(question, length, tokenizer):
    """Also in Hangul, of which a syllable may be three tokens."""
    example = {"context": "天安门在北京的中心" * 4, "question": question}
    features = TASKS["span"].features([example], TaskSetup(tokenizer, [], length))
    assert all(feature.length <= length for feature in features)
    seen = {offsets for feature in features for offsets in feature.origin if offsets[0] >= 0}
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
    vocab = shared / "vocab" / "vocab.txt"
    tokenizer = for_transformers(build_tokenizer(vocab, lowercase=True))
    findings = DataMistakes.none()
    path = str(shared / "tasks" / folder / "dev.jsonl.gz")
    examples = read_task_file(TASKS[task], path, findings)[:400]
    assert findings.bad_lines == []
    scores, features = check_round_trip(task, examples, tokenizer, length)
    assert min(scores.values()) >= least
    if task in ("ner", "span"):
        assert len(features) > len(examples)


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
    setup = TaskSetup(tokenizer, labels, 8)
    features = TASKS["ner"].features([example], setup)
    assert all(
        feature.length <= 8 and len(feature.target) == len(feature.origin) == feature.length
        for feature in features
    )
    places = [place for feature in features for place, _ in feature.origin if place >= 0]
    kept = [bool(ids) for ids in tokenizer(words, add_special_tokens=False)["input_ids"]]
    assert places == [place for place, there in enumerate(kept) if there]
    outputs = [(feature, perfect_logits("ner", feature, labels)) for feature in features]
    found = TASKS["ner"].answer(example, outputs, setup)
    assert found["labels"] == ["B-X" if there else "O" for there in kept]


INVISIBLE = [
    " ",
    "\u3000",
    "\u200b",
    "\u00a0",
    "\t",
    "\ufeff",
    "\x00",
    "\u200d",
    "\u2028",
    "\u0301",
]


@pytest.mark.parametrize("invisible", INVISIBLE)
def test_an_entity_with_an_invisible_word_is_one_entity(invisible, tokenizer):
    """Whether the word stands inside the entity, at its ends, twice, or alone."""
    b, i, o = "B-PER", "I-PER", "O"
    examples = [
        {"tokens": ["在", "a", invisible, "b", "京"], "labels": [o, b, i, i, o]},
        {"tokens": ["在", invisible, "a", "b", invisible], "labels": [o, b, i, i, i]},
        {"tokens": ["a", invisible, invisible, "b", invisible, "c"], "labels": [b, i, i, i, o, b]},
    ]
    scores, features = check_round_trip("ner", examples, tokenizer, 24)
    assert set(scores.values()) == {1.0}
    first = [label for label in features[0].target if label != IGNORED]
    assert first == [0, 1, 2, 0], "the network sees B and I of what it sees"
    # Also where white space was labelled O inside an entity: these are two entities.
    setup = TaskSetup(tokenizer, ["O", "B-PER", "I-PER"], 24)
    split = {"tokens": ["a", invisible, "b"], "labels": ["B-PER", "O", "B-PER"]}
    assert TASKS["ner"].visible([split], setup) == [split]


def test_an_entity_spelt_with_a_space_is_found_whole(tokenizer):
    text = "在a b京"
    example = {"tokens": list(text), "labels": ["O", "B-PER", "I-PER", "I-PER", "O"]}
    setup = TaskSetup(tokenizer, ["O", "B-PER", "I-PER"], 24)
    (feature,) = TASKS["ner"].features([example], setup)
    outputs = [(feature, perfect_logits("ner", feature, setup.labels))]
    answer = TASKS["ner"].answer({"tokens": list(text)}, outputs, setup)
    (entity,) = answer["entities"]
    assert (entity["text"], entity["start"], entity["end"]) == ("a b", 1, 4)
    assert 0.9 < entity["probability"] <= 1


@pytest.mark.parametrize("space", ["", " ", "\u200b", "\u3000", " \ufeff"])
@pytest.mark.parametrize("length", [12, 24, 64])
def test_an_answer_with_invisible_ends_has_a_target(space, length, tokenizer, tmp_path):
    row = {
        "context": f"书店很太的，王{space}明{space}在京，一二三四五六七八九十",
        "question": "是？",
        "answers": [{"text": f"王{space}明{space}", "start": 6}],
    }
    (tmp_path / "a.jsonl").write_text(json.dumps(row), "utf-8")
    examples = read_task_file(TASKS["span"], str(tmp_path / "a.jsonl"), DataMistakes.none())
    scores, features = check_round_trip("span", examples, tokenizer, length)
    assert scores == {"f1": 1.0, "exact_match": 1.0}
    assert any(feature.target != [0, 0] for feature in features)


def long_answer(tokens):
    context = f"书店{'一二三四五' * (tokens // 5)}在京"
    answers = [{"text": context[2 : 2 + tokens], "start": 2}]
    return {"context": context, "question": "是？", "answers": answers}


def test_answers_may_be_as_long_as_those_of_the_training_examples(tokenizer):
    kind, example = TASKS["span"], long_answer(100)
    short = TaskSetup(tokenizer, [], 128)
    assert kind.target_sizes([example, long_answer(10)], short) == [100, 10]
    for setup, found in (short, False), (short._replace(longest=100), True):
        outputs = [
            (each, perfect_logits("span", each, [])) for each in kind.features([example], setup)
        ]
        answer = kind.answer(example, outputs, setup)["answer"]
        assert (answer == example["answers"][0]["text"]) == found


def test_answers_that_no_window_shows_are_counted_and_not_learnt(tokenizer, tmp_path):
    rows = [long_answer(100), long_answer(10), long_answer(70)]
    path = write_rows(tmp_path / "a.jsonl", *rows)
    dev = write_rows(tmp_path / "b.jsonl", *(each | {"question": "谁？"} for each in rows))

    def at(length):
        files = {"train": path, "dev": dev, "length": length}
        return read_examples(FinetuneSettings(task="span", data=files), tokenizer)

    data = at(128)
    assert (data.longest, len(data.sets["train"]), len(data.sets["dev"])) == (100, 3, 3)
    assert data.notes == []
    data = at(96)
    assert (data.longest, len(data.sets["train"]), len(data.sets["dev"])) == (70, 2, 3)
    told = (path, "are left out"), (dev, "cannot be answered")
    for note, (name, what) in zip(data.notes, told, strict=True):
        assert note.startswith(f"{name}: 1 of 3 examples {what}")
        assert "raise data.length=96" in note
    write_rows(tmp_path / "a.jsonl", rows[0])
    with pytest.raises(TaskError, match=r"no window of data\.length=96 shows an answer"):
        at(96)


def test_offsets_are_those_of_full_width_text(export):
    """Entities and answers are named as they are written, not as the network reads them."""
    folded = export_tokenizer(export / "vocab.txt", True, CleaningSettings())
    wide, narrow = "在ａ１ｂ２\u3000王明", "在a1b2 王明"
    for text in (wide, narrow):
        labels = ["O", *["B-X", "I-X", "I-X", "I-X"], "O", "B-X", "I-X"]
        example = {"tokens": list(text), "labels": labels}
        setup = TaskSetup(folded, ["O", "B-X", "I-X"], 24)
        (feature,) = TASKS["ner"].features([example], setup)
        outputs = [(feature, perfect_logits("ner", feature, setup.labels))]
        found = TASKS["ner"].answer(example, outputs, setup)["entities"]
        assert [(each["text"], each["start"]) for each in found] == [(text[1:5], 1), ("王明", 6)]
        assert folded.unk_token_id not in feature.inputs[0].ids

        answers = [{"text": text[1:5], "start": 1}]
        question = {"context": text, "question": text[1:3], "answers": answers}
        scores, _ = check_round_trip("span", [question], folded, 24)
        assert scores["exact_match"] == 1.0
    assert folded(wide)["input_ids"] == folded(narrow)["input_ids"]


@pytest.mark.parametrize(
    ("context", "question", "choices"),
    [
        ("书" * 300, "一二的是？", ["店" * 10, "京" * 10]),
        (
            "书" * 200,
            "书店很太的是？" * 3,
            ["一二三四五六七八" * 6 + "京", "一二三四五六七八" * 6 + "沪"],
        ),
        ("书店。", "书" * 200, ["店", "京"]),
        ("书" * 300, "店" * 200, ["京" * 100 + "一", "京" * 100 + "二", "三"]),
        ("", "书" * 300, ["京", "沪"]),
        ("书" * 300, "", ["京", "京沪"]),
    ],
)
def test_choices_stay_whole(context, question, choices, tokenizer):
    """First the context is cut, then the question; all choices see the same context."""
    length = 128
    example = {"context": context, "question": question, "choices": choices, "answer": 0}
    assert TASKS["choice"].unfit(example, tokenizer, length) == ""
    (feature,) = TASKS["choice"].features([example], TaskSetup(tokenizer, [], length))
    texts = [tokenizer.decode(each.ids).replace(" ", "") for each in feature.inputs]
    for choice, text, each in zip(choices, texts, feature.inputs, strict=True):
        assert text.endswith(f"{choice}[SEP]")
        assert len(each.ids) == len(each.types) <= length
        assert each.types == sorted(each.types)
    assert len({text.partition("[SEP]")[0] for text in texts}) == 1
    assert max(len(each.ids) for each in feature.inputs) == length
    if context and len(question) < 30:
        assert question in texts[0]


def test_choices_that_cannot_stay_whole_are_told(tokenizer):
    example = {"context": "书", "question": "？", "choices": ["京", "沪" * 22]}
    assert TASKS["choice"].unfit(example, tokenizer, 25) == ""
    told = TASKS["choice"].unfit(example, tokenizer, 24)
    assert told.startswith("a choice has 22 tokens, and data.length=24 leaves room for 21")


@pytest.mark.parametrize("task", TASKS)
def test_padding_does_not_change_the_logits(task, export, data, tokenizer, monkeypatch):
    monkeypatch.setattr(networks, "autocast", lambda *_: contextlib.nullcontext())
    kind = TASKS[task]
    examples = read_task_file(TASKS[task], data[task]["dev"], DataMistakes.none())
    labels = kind.label_set(examples)
    setup = TaskSetup(tokenizer, labels, 32)
    features = kind.features(examples, setup)
    network = loading.build(kind, str(export), labels, 0.1, from_scratch=True)
    model = networks.TaskNetwork(kind, setup, network, "auto")
    alone, together = (networks.infer(model, features, n) for n in (1, len(features)))
    for one, other in zip(alone, together, strict=True):
        assert one == pytest.approx(other[tuple(map(slice, one.shape))], abs=1e-5)


def test_the_loss_counts_what_counts():
    logits = torch.tensor([[[2.0, 0.0], [0.0, 3.0]], [[5.0, 1.0], [1.0, 1.0]]])
    target = torch.tensor([[0, 1], [IGNORED, IGNORED]])
    expected = -torch.log_softmax(logits[0], -1)[[0, 1], [0, 1]].mean()
    weight = networks.target_weight(target)
    assert networks.loss_sum(logits, target) / weight == pytest.approx(float(expected))
    assert networks.loss_sum(logits, torch.full((2, 2), IGNORED)) == 0
    assert networks.target_weight(torch.full((2, 2), IGNORED)) == 0
    labels = torch.tensor([1.0, 3.0])
    assert networks.target_weight(target, labels) == 4
    numbers, truth = torch.tensor([[1.0], [2.0]]), torch.tensor([[1.5], [0.0]])
    assert networks.loss_sum(numbers, truth) == pytest.approx(0.25 + 4)


def test_absent_choices_get_no_probability(export, tokenizer):
    kind = TASKS["choice"]
    setup = TaskSetup(tokenizer, [], 32)
    features = kind.features(
        [
            {"context": "好", "question": "？", "choices": ["一", "二", "三"], "answer": 0},
            {"context": "坏", "question": "？", "choices": ["一", "二"], "answer": 1},
        ],
        setup,
    )
    network = loading.build(kind, str(export), [], 0.1, from_scratch=True).eval()
    model = networks.TaskNetwork(kind, setup, network, "auto")
    shares = networks.forward(model, model.collate(features)).softmax(-1)
    assert shares[1, 2] == 0
    assert shares[:, :2].min() > 0


def test_trivial_answers_are_those_of_the_training_examples_or_of_none():
    train = [{"label": each} for each in "0110111"]
    given = [{"label": "0"}, {"label": "1"}]
    assert TASKS["pair"].trivial_answers(train, given) == [{"label": "1"}] * 2
    assert TASKS["ner"].trivial_answers([], [{"tokens": [*"张明在京"]}]) == [{"labels": ["O"] * 4}]
    examples = [{"context": "北京。上海很好。", "question": "?"}]
    assert TASKS["span"].trivial_answers([], examples) == [{"answer": "北京"}]


@pytest.mark.parametrize("name", ["classification", "multilabel"])
def test_an_answer_names_the_likeliest_of_thousands_of_labels(name):
    """The probabilities of 5,000 labels for each dev example filled the memory."""
    labels = [f"{number:04}" for number in range(5000)]
    logits = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    if name == "multilabel":
        logits = np.stack([np.zeros_like(logits), logits], axis=-1)
    setup = TaskSetup(tokenizer=None, labels=labels, length=8)
    answer = TASKS[name].answer({}, [(None, logits)], setup)
    given = logits[..., -1] if name == "multilabel" else logits
    best = sorted(labels[number] for number in np.argsort(-given)[:200])
    assert list(answer["probabilities"]) == best
    if name == "multilabel":
        assert len(answer["labels"]) == (given > 0).sum()
