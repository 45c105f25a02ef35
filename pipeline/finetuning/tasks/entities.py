"""Named entities: a BIO label for every word."""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import transformers
from tokenizers import Regex, pre_tokenizers
from transformers import PreTrainedTokenizerBase

from pipeline.errors import TaskError
from pipeline.finetuning.examples.features import Feature
from pipeline.finetuning.examples.jsonl import Example, require, without
from pipeline.finetuning.tasks.base import Answer, Logits, Outputs, Task, TaskSetup, log_softmax
from pipeline.finetuning.tasks.bio import (
    best_labels,
    entities_of,
    labels_of_places,
    to_bio,
    with_invisible,
    without_invisible,
)
from pipeline.finetuning.tasks.cells import listed
from pipeline.finetuning.tasks.entity_records import is_list_cell, places_of
from pipeline.finetuning.tasks.entity_windows import count_words, feature_of, pieces_of, windows_of

LABEL_IN_LIST = re.compile(r"O|[BIESMLUW]-\S.*")
"""As `tables.LABEL`. The type may hold spaces, because they do not part labels in a list."""
NESTED = "nested_entities"
"""Key of an example, until `unify`: the number of entities that lie in others."""
ONE_SENTENCE = 500
"""Words above which a file of one sentence is told."""
SEEN = 2_000
"""Examples, about, that show whether characters or words are tokens."""


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
        or of objects with the keys of `entity_records.PLACES`, as Label Studio's `label`. A
        list of labels in a table is JSON, or words between white space or as PaddleNLP has them.
        """
        found = super().published(record)
        if isinstance(cell := found.get("label"), str) and cell.lstrip().startswith("[{"):
            found = found | {"label": listed(cell, "label", words=False)}
        for key, name in ("text", "tokens"), ("label", "labels"):
            cell = found.get(key)
            if name not in found and isinstance(cell, str) and is_list_cell(key, cell):
                found = {name if each == key else each: found[each] for each in found}
                found[name] = listed(cell, name, words=True)
        if isinstance(found.get("labels"), str):
            return found | {"labels": listed(found["labels"], "labels", words=True)}
        if not isinstance(found.get("text"), str):
            return found
        keys = ("labels",) if found.get("labels") else ("label", "entities")
        read = [places_of(key, found.get(key)) for key in keys]
        # An empty list beside another one says nothing.
        places = max((each for each in read if each is not None), key=bool, default=None)
        if places is None:
            return found
        kept = without(found, "label", "entities")
        if not places:  # no entity or, in all of a test set, no target: `check_target` knows
            return kept | {"labels": []}
        labels, nested = labels_of_places(places, found["text"])
        counted = {NESTED: nested} if nested else {}
        return kept | {"tokens": list(found["text"]), "labels": labels} | counted

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
            if not isinstance(label, str) or not LABEL_IN_LIST.fullmatch(label):
                raise TaskError(
                    f"{place}, key labels: {label!r} is not O, B-TYPE or I-TYPE, nor a label of "
                    "IOB1, BIOES, BILOU or BMES"
                )

    def unify(self, examples: list[Example], path: str, notes: list[str]) -> None:
        """Turn the labels of any scheme into BIO, and tell of what a head does not learn."""
        if nested := sum(example.pop(NESTED, 0) for example in examples):
            kept = sum(label[0] == "B" for example in examples for label in example["labels"])
            notes.append(
                f"{path}: {nested} of {kept + nested} entities lie in others and are left out: a "
                "head learns and finds the outer ones alone, and its scores count only these"
            )
        if len(examples) == 1 and (words := len(examples[0]["tokens"])) > ONE_SENTENCE:
            notes.append(
                f"{path}: its {words:,} words are one sentence; where they are several, blank "
                "lines part them, which tables lose in some programs"
            )
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

    def nothing_to_learn(self, examples: list[Example]) -> str:
        """Words alone, as the rows of a table with names of columns, have no context."""
        if len(examples) > 1 and all(len(example["tokens"]) == 1 for example in examples):
            return (
                "every example is a single word (words in rows are sentences where the file has "
                "no names of columns and blank lines between the sentences)"
            )
        return super().nothing_to_learn(examples)

    def nothing_to_score(self, examples: Sequence[Example]) -> str:
        return "" if self.labels_of(examples) - {"O"} else "no example has an entity"

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
        sizes = count_words({*single, *longer}, setup.tokenizer)
        kept = [text for text in sizes if sizes[text] == 1]
        if sum(map(single.__getitem__, kept)) >= sum(map(longer.__getitem__, kept)):
            backend = setup.tokenizer.backend_tokenizer
            characters = pre_tokenizers.Split(Regex("."), "isolated")
            backend.pre_tokenizer = pre_tokenizers.Sequence([characters, backend.pre_tokenizer])

    def cut_otherwise(self, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> str:
        """Words of several Chinese characters are cut in texts; signs, as `……`, say nothing."""
        words = Counter(word for example in examples for word in example["tokens"])
        sizes = count_words((each for each in words if len(each) > 1 and each.isalnum()), tokenizer)
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
        pieces = pieces_of(examples, setup)
        number = {label: i for i, label in enumerate(setup.labels)}
        features = []
        for i, example in enumerate(examples):
            labels = [number[label] for label in example.get("labels", [])]
            sizes = [len(pieces[word]) for word in example["tokens"]]
            for window in windows_of(sizes, setup.length - 2, setup.stride or 0):
                features.append(feature_of(i, example["tokens"], labels, pieces, window, setup))
        return features

    def visible(self, examples: list[Example], setup: TaskSetup) -> list[Example]:
        pieces = pieces_of(examples, setup)

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
