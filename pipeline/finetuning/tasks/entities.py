"""Named entities: a BIO label for every word."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import transformers
from tokenizers import Regex, pre_tokenizers
from transformers import PreTrainedTokenizerBase

from pipeline.errors import TaskError
from pipeline.finetuning.examples.features import Feature, Tokens
from pipeline.finetuning.examples.jsonl import Example, require, without
from pipeline.finetuning.examples.tables import LABEL
from pipeline.finetuning.tasks.base import (
    PADDLE,
    Answer,
    Logits,
    Outputs,
    Task,
    TaskSetup,
    listed,
    log_softmax,
)
from pipeline.finetuning.tasks.bio import (
    EntitySpan,
    best_labels,
    entities_of,
    labels_of_places,
    to_bio,
    with_invisible,
    without_invisible,
)
from pipeline.labels import IGNORED

SEEN = 2_000
"""Examples, about, that show whether characters or words are tokens."""
PLACES = (
    ("start", "end", "type"),
    ("start", "end", "label"),
    ("start_offset", "end_offset", "label"),
)
"""Keys of an entity in predictions, in spaCy's and in doccano's files. The end is excluded."""


class Entities(Task):
    """Every word (in Chinese, every character) gets a BIO label. Logits [S, K].

    The first piece of a word carries its label. A word that gives no token, such as white space, is
    part of an entity if the visible words on both sides are. Words beyond the length go into
    further windows, so every word gets a label.
    """

    name = "ner"
    network = transformers.AutoModelForTokenClassification
    metric = "f1"
    fields: ClassVar = {"tokens": list}
    words_in_columns = True
    aliases: ClassVar = {
        "tokens": ("words", "chars"),
        "text": ("text_a",),
        "labels": ("tags", "ner_tags"),
    }
    target = "labels"
    answer_form: ClassVar = {
        "labels": [str],
        "entities": [{"text": str, "type": str, "start": int, "end": int, "probability": float}],
    }
    has_label_weights = True
    scored_by = "entities"
    trivial = "no entity"
    sample: ClassVar = {"text": "王明在北京。"}

    def published(self, record: Example) -> Example:
        """Entities that are given by their places become labels of single characters.

        They are CLUENER's `label` ({type: {text: [[first, last], …]}}), doccano's `label` or
        `labels` ([[start, end, type], …], the end excluded), or a list `entities` of such triples
        or of objects with these (`PLACES`). A list of labels in a table is JSON, or words between
        white space or as PaddleNLP has them.
        """
        found = super().published(record)
        for key, name in ("text", "tokens"), ("label", "labels"):
            cell = found.get(key)
            if name not in found and isinstance(cell, str) and _is_list(key, cell):
                found = {name if each == key else each: found[each] for each in found}
                found[name] = listed(cell, name, words=True)
        if isinstance(found.get("labels"), str):
            return found | {"labels": listed(found["labels"], "labels", words=True)}
        if not isinstance(found.get("text"), str):
            return found
        keys = ("labels",) if "labels" in found else ("label", "entities")
        read = (_places(key, found.get(key)) for key in keys)
        places = next((each for each in read if each is not None), None)
        if places is None:
            return found
        kept = without(found, "label", "entities")
        if not places:  # no entity or, in all of a test set, no target: `check_target` knows
            return kept | {"labels": []}
        tokens = list(found["text"])
        return kept | {"tokens": tokens, "labels": labels_of_places(places, found["text"])}

    def without_target(self, record: Example) -> Example:
        found = super().without_target(record)
        places = [key for key in ("label", "entities") if isinstance(found.get(key), list | dict)]
        return without(found, *places)

    def submitted(self, example: Example, answer: Answer) -> Any:
        """CLUENER's form."""
        found: dict[str, dict[str, list[list[int]]]] = {}
        for each in answer["entities"]:
            places = found.setdefault(each["type"], {}).setdefault(each["text"], [])
            places.append([each["start"], each["end"] - 1])
        return {"label": found}

    def check_fields(self, example: Example, place: str) -> Example:
        if not example.get("tokens") and isinstance(example.get("text"), str):
            example = example | {"tokens": list(example["text"])}
        return super().check_fields(example, place)

    def check_target(self, example: Example, place: str) -> None:
        # Tokens of a text are ours: a message should name the keys that the file has.
        given = without(example, "tokens") if "text" in example else example
        require(given, "labels", list, place, self.name)
        if not example["labels"] and "text" in example:  # a text without entities
            example["labels"] = ["O"] * len(example["tokens"])
        if len(example["labels"]) != len(example["tokens"]):
            raise TaskError(
                f"{place}: {len(example['tokens'])} tokens but {len(example['labels'])} labels"
            )
        example["labels"] = [
            each.strip() if isinstance(each, str) else each for each in example["labels"]
        ]
        for label in example["labels"]:
            if not isinstance(label, str) or not LABEL.fullmatch(label):
                raise TaskError(
                    f"{place}, key labels: {label!r} is not O, B-TYPE or I-TYPE, nor a label of "
                    "IOB1, BIOES, BILOU or BMES"
                )

    def unify(self, examples: list[Example], path: str, notes: list[str]) -> None:
        """Turn the labels of any scheme into BIO."""
        changed = 0
        for example in examples:
            labels = to_bio(example["labels"])
            changed += labels != example["labels"]
            example["labels"] = labels
        if changed:
            notes.append(
                f"{path}: {changed} of {len(examples)} lines are not BIO (IOB2), and are read as "
                "IOB1, BIOES, BILOU or BMES: a label that cannot go on from the one before it "
                "begins an entity"
            )

    def cut_as_trained(self, setup: TaskSetup, examples: Sequence[Example]) -> None:
        """Each character is a token if the examples have `2` `0` more often than `2019`.

        BERT's tokenizers keep both whole. A few words of several characters, as an emoji or `……`,
        say nothing of that. The tokenizer keeps its own length: behind it other programs find no
        entities, but we do.
        """
        sentences = [example["tokens"] for example in examples[:: len(examples) // SEEN + 1]]
        pairs = (two for words in sentences for two in itertools.pairwise(words))
        single = Counter(a + b for a, b in pairs if len(a) == len(b) == 1)
        longer = Counter(word for words in sentences for word in words if len(word) > 1)
        sizes = _words_in({*single, *longer}, setup.tokenizer)
        kept = [text for text in sizes if sizes[text] == 1]
        if sum(map(single.__getitem__, kept)) >= sum(map(longer.__getitem__, kept)):
            backend = setup.tokenizer.backend_tokenizer
            characters = pre_tokenizers.Split(Regex("."), "isolated")
            backend.pre_tokenizer = pre_tokenizers.Sequence([characters, backend.pre_tokenizer])

    def cut_otherwise(self, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> str:
        """Words of several Chinese characters are cut in texts; signs, as `……`, say nothing."""
        words = Counter(word for example in examples for word in example["tokens"])
        sizes = _words_in((each for each in words if len(each) > 1 and each.isalnum()), tokenizer)
        cut = {word: words[word] for word in sizes if sizes[word] > 1}
        if not cut:
            return ""
        return (
            f"{sum(cut.values()):,} of {words.total():,} words are not single characters or words "
            f"of letters, as {max(cut, key=cut.__getitem__)!r}: the head answers as it is judged "
            "where it is given `tokens`, and worse for texts, which are cut into characters"
        )

    def cut(self, example: Example, tokenizer: PreTrainedTokenizerBase) -> Example:
        """A text becomes words, and single characters elsewhere, as in `[SEP]`."""
        text, tokens = example.get("text"), example.get("tokens")
        if not isinstance(text, str) or (tokens and tokens != list(text)):
            return example
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        places: dict[int, list[int]] = {}
        for word, offsets in zip(encoded.word_ids(), encoded["offset_mapping"], strict=True):
            places.setdefault(word, []).extend(offsets)
        words = [(min(each), max(each)) for each in places.values()]
        whole = [(a, b) for a, b in words if text[a:b] not in tokenizer.all_special_tokens]
        inside = {i for a, b in whole for i in range(a + 1, b)}
        cuts = [i for i in range(len(text) + 1) if i not in inside]
        return example | {"tokens": [text[a:b] for a, b in itertools.pairwise(cuts)]}

    def labels_of(self, examples: Iterable[Example]) -> set[str]:
        return {label for example in examples for label in example["labels"]}

    def label_set(self, examples: Iterable[Example]) -> list[str]:
        """O, B-X, I-X … for every type X."""
        types = sorted({label[2:] for label in self.labels_of(examples) if label != "O"})
        return ["O", *(f"{prefix}-{each}" for each in types for prefix in "BI")]

    def from_text(self, line: str) -> Example | None:
        return {"text": line}

    def features(self, examples: Sequence[Example], setup: TaskSetup) -> list[Feature]:
        pieces = _pieces(examples, setup)
        number = {label: i for i, label in enumerate(setup.labels)}
        features = []
        for i, example in enumerate(examples):
            labels = [number[label] for label in example.get("labels", [])]
            sizes = [len(pieces[word]) for word in example["tokens"]]
            for window in _windows(sizes, setup.length - 2, setup.stride or 0):
                features.append(_feature(i, example["tokens"], labels, pieces, window, setup))
        return features

    def visible(self, examples: list[Example], setup: TaskSetup) -> list[Example]:
        pieces = _pieces(examples, setup)

        def reduced(example: Example) -> Example:
            seen = [bool(pieces[word]) for word in example["tokens"]]
            return example | {"labels": without_invisible(example["labels"], seen)}

        return [reduced(each) if "labels" in each else each for each in examples]

    def answer(self, example: Example, outputs: Outputs, setup: TaskSetup) -> Answer:
        found: dict[int, Logits] = {}
        margins: dict[int, int] = {}
        for feature, each in outputs:
            last = len(feature.origin) - 1
            # The logits of a batch go on over the padding.
            for place, ((word, _), values) in enumerate(
                zip(feature.origin, each[: last + 1], strict=True)
            ):
                # Of windows that share a word, the one counts that shows most on both its sides.
                margin = min(place, last - place)
                if word >= 0 and margin > margins.get(word, -1):
                    found[word], margins[word] = values, margin
        words = sorted(found)
        scores = log_softmax(
            np.array([found[word] for word in words]).reshape(-1, len(setup.labels))
        )
        chosen = best_labels(scores, setup.labels)
        seen = [word in found for word in range(len(example["tokens"]))]
        labels = with_invisible([setup.labels[i] for i in chosen], seen)
        shares = np.full(len(seen), np.nan)
        shares[words] = np.exp(scores[np.arange(len(chosen)), chosen])
        return {"labels": labels, "entities": entities_of(example["tokens"], labels, shares)}

    def share(self, example: Example, answer: Answer) -> tuple[float, float]:
        truth, given = _entities(example["labels"]), _entities(answer["labels"])
        return 2.0 * len(truth & given), float(len(truth) + len(given))

    def confidences(self, example: Example, answer: Answer) -> list[tuple[float, bool]]:
        right = {(kind, start, end + 1) for kind, start, end in _entities(example["labels"])}
        starts = np.cumsum([0, *(len(word) for word in example["tokens"])])
        words = {int(place): number for number, place in enumerate(starts)}
        return [
            (
                entity["probability"],
                (entity["type"], words.get(entity["start"]), words.get(entity["end"])) in right,
            )
            for entity in answer.get("entities", [])
        ]

    def trivial_answers(
        self, train: Sequence[Example], examples: Sequence[Example]
    ) -> list[Answer]:
        return [{"labels": ["O"] * len(example["tokens"])} for example in examples]

    def label_pairs(self, example: Example, answer: Answer) -> list[tuple[str, str]]:
        return [
            (truth[2:] or "O", given[2:] or "O")
            for truth, given in zip(example["labels"], answer["labels"], strict=True)
        ]


def _entities(labels: Sequence[str]) -> set[tuple[str, int, int]]:
    """(type, first word, last word) of each entity."""
    from seqeval.metrics.sequence_labeling import get_entities  # a served head judges nothing

    return set(get_entities(list(labels)))


def _places(key: str, value: Any) -> list[EntitySpan] | None:
    """The places of entities under a key of a record; None if it holds no places."""
    if key == "label" and isinstance(value, dict):
        try:
            return [
                EntitySpan(first, last + 1, kind, text)
                for kind, texts in value.items()
                for text, spans in texts.items()
                for first, last in spans
            ]
        except (AttributeError, TypeError, ValueError):
            form = "{type: {text: [[first, last], …]}}"
            raise TaskError(f"key label: expected {form}, found {value!r:.60}") from None
    if not isinstance(value, list):
        return None
    if key != "entities" and not all(isinstance(each, list) for each in value):
        return None  # these are the labels of words
    return [_place(key, each) for each in value]


def _is_list(key: str, cell: str) -> bool:
    """Whether a cell holds words with PaddleNLP's separator or, of `label`, labels."""
    return PADDLE in cell or (key == "label" and bool(LABEL.fullmatch((cell.split() or [""])[0])))


def _place(key: str, entity: Any) -> EntitySpan:
    if isinstance(entity, dict):
        for start, end, kind in PLACES:
            if entity.keys() >= {start, end, kind}:
                return EntitySpan(entity[start], entity[end], entity[kind], entity.get("text"))
    if isinstance(entity, list) and len(entity) == 3:
        return EntitySpan(*entity)
    form = "objects with start, end and type, or lists [start, end, type]"
    raise TaskError(f"key {key}: expected {form}, found {entity!r:.60}")


def _words_in(texts: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Words of each different text, as the tokenizer cuts it."""
    different = sorted({*texts})
    encoded = tokenizer(different or [""], add_special_tokens=False)
    return {text: len({*encoded.word_ids(i)}) for i, text in enumerate(different)}


def _pieces(examples: Sequence[Example], setup: TaskSetup) -> dict[str, list[int]]:
    """Token ids of each word that occurs."""
    words = sorted({word for example in examples for word in example["tokens"]})
    ids = setup.tokenizer(words, add_special_tokens=False)["input_ids"] if words else []
    return dict(zip(words, ids, strict=True))


def _feature(
    example: int,
    words: Sequence[str],
    labels: Sequence[int],
    pieces: dict[str, list[int]],
    window: range,
    setup: TaskSetup,
) -> Feature:
    ids, origin, target = [setup.tokenizer.cls_token_id], [(-1, -1)], [IGNORED]
    for word in window:
        for place, piece in enumerate(pieces[words[word]][: setup.length - 2]):
            ids.append(piece)
            origin.append((-1, -1) if place else (word, word + 1))
            target.append(IGNORED if place or not labels else labels[word])
    ids.append(setup.tokenizer.sep_token_id)
    origin.append((-1, -1))
    target.append(IGNORED)
    return Feature(example, [Tokens(ids, [0] * len(ids))], target, origin)


def _windows(sizes: Sequence[int], room: int, stride: int) -> list[range]:
    """Ranges of words, of these numbers of pieces, with at most `room` pieces in each.

    A range begins with the last words of the one before, which have at most `stride` pieces, as
    long as it then holds another word.
    """
    fitting = [min(size, room) for size in sizes]
    windows, start, used = [], 0, 0
    for word, size in enumerate(fitting):
        if used + size > room:
            windows.append(range(start, word))
            start, used = word, 0
            while (
                used + fitting[start - 1] <= min(stride, room - size) and start - 1 > windows[-1][0]
            ):
                start -= 1
                used += fitting[start]
        used += size
    return [*windows, range(start, len(fitting))]
