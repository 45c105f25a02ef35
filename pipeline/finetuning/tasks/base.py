"""What all tasks have in common: how examples are read, encoded, answered and scored.

Logits reach the loss as [..., K] with targets [...]; a target of -100 is not counted.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import BatchEncoding, PreTrainedTokenizerBase

from pipeline.errors import TaskError
from pipeline.finetuning.examples.features import Feature, FeatureBatch, Tokens
from pipeline.finetuning.examples.jsonl import Example, require, without
from pipeline.finetuning.tasks.cells import in_order, is_visible, listed

Answer = dict[str, Any]
Logits = NDArray[np.floating]
LISTED = 200
"""Labels whose probabilities an answer names."""
LONGEST_ANSWER = 64
"""Tokens that an answer span may have even if those of the training examples are shorter."""
Outputs = Sequence[tuple[Feature, Logits]]
"""The features of one example, each with its logits."""


class TaskSetup(NamedTuple):
    """What a task needs to encode examples and to name answers."""

    tokenizer: PreTrainedTokenizerBase
    labels: Sequence[str]
    """Names of the classes or of the token labels; empty for choices and spans."""
    length: int
    """Largest number of tokens in an input sequence."""
    stride: int | None = None
    """Tokens that a window of a long input shares with the one before; None: the task's own way."""
    clean: Callable[[str], str] = str
    """What a text needs that the tokenizer does not do (`export.lineage.text_cleaner`). Tasks that
    give the places of characters leave it out: places count the characters of the text as given."""
    longest: int = LONGEST_ANSWER
    """Largest number of tokens in an answer span."""
    unanswerable: bool = False
    """Whether a question may have no answer span, as some of the training examples."""
    no_answer: float = 0.0
    """How much more than the best answer span no answer must score to be given (`Task.tuned`)."""
    units: tuple[float, float] = (0.0, 1.0)
    """Of a regression that is trained: what 0 and 1 of the network stand for, as `Task.units`."""


class Task(ABC):
    """One kind of task: its data format, its features, its answers and its scores."""

    name: ClassVar[str]
    """What `finetune.task` calls it."""
    network: ClassVar[Any]
    """Auto class of the network."""
    metric: ClassVar[str]
    """The score that chooses the best epoch."""
    fields: ClassVar[dict[str, type]]
    """Keys of an example that the network reads, with the types of their values."""
    target: ClassVar[str]
    """Key of what is to be predicted."""
    text_form: ClassVar[str] = "JSON"
    """What a line to be predicted may be, for messages."""
    multiple_choice: ClassVar[bool] = False
    """Whether an example is several input sequences, one for each choice."""
    has_windows: ClassVar[bool] = True
    """Whether a long input is read in windows, for which a stride has an effect."""
    has_labels: ClassVar[bool] = True
    """Whether answers come from a fixed set of labels."""
    has_label_weights: ClassVar[bool] = False
    """Whether the loss can weigh labels."""
    answer_form: ClassVar[dict[str, Any]]
    """Keys of an answer with the types of their values: a type, a list of one form, or a dictionary
    of forms; `{str: form}` is a dictionary with any keys. The first key is what is scored."""
    scored_by: ClassVar[str]
    """The function of `judging.metrics` that takes true and given answers and gives the scores."""
    scored_with_labels: ClassVar[bool] = False
    """Whether that function also takes the labels of the head."""
    metric_is_ratio: ClassVar[bool] = True
    """Whether `metric` is a ratio of sums over the examples; a correlation is none."""
    trivial: ClassVar[str] = "most frequent label"
    """What the trivial answers are, for tables."""
    aliases: ClassVar[dict[str, tuple[str, ...]]] = {}
    """Names that published files have for a field or the target."""
    order: ClassVar[tuple[str, ...]] = ()
    """Fields and target as they stand in tables without column names; empty if tables differ."""
    words_in_columns: ClassVar[bool] = False
    """Whether text files hold words with labels in CoNLL's columns."""
    problem_type: ClassVar[str | None] = None
    """Of the network's configuration: what transformers does with the logits."""
    sample: ClassVar[Example]
    """An example without its target, as a served head takes it."""
    may_be_blank: ClassVar[frozenset[str]] = frozenset()
    """Fields, or the target, that may hold no visible character."""

    @property
    def scored(self) -> str:
        """Key of what is scored in an answer."""
        return next(iter(self.answer_form))

    @property
    def served(self) -> dict[str, Any]:
        """Keys of what a served head takes, with the forms of their values, as `answer_form`."""
        kinds = {key: self.fields.get(key, str) for key in self.sample}
        return {key: [str] if kind is list else kind for key, kind in kinds.items()}

    def wrong_columns(self, columns: Mapping[str, str | int]) -> list[str]:
        """What is wrong with `data.columns`."""
        names = {*self.fields, *self.sample, self.target, "id"}
        others = {each for group in self.aliases.values() for each in group} | {"entities", "label"}
        unknown = [
            f"{self.name} has no field {name}; it has {', '.join(sorted(names))}"
            for name in columns
            if name not in names | others
        ]
        fields = {
            each: [name for name in columns if columns[name] == each] for each in columns.values()
        }
        shared = [
            f"{' and '.join(several)} have the same column, {each!r}; give each its own"
            for each, several in fields.items()
            if len(several) > 1
        ]
        negative = [
            f"{name} has the column {each}; columns are counted from 0"
            for name, each in columns.items()
            if isinstance(each, int) and each < 0
        ]
        return unknown + shared + negative

    @abstractmethod
    def check_target(self, example: Example, place: str) -> None:
        """Raise TaskError unless the target is there and fits the rest of the example."""

    def advice_without_targets(self, example: Example) -> str:
        """What to do about a file of which no example has the target; `example` is one of them."""
        other = next((each for each in example if each not in (*self.fields, "id")), "NAME")
        return f"if it has another name here, set data.columns to it, as {{{self.target}: {other}}}"

    @abstractmethod
    def features(self, examples: Sequence[Example], setup: TaskSetup) -> list[Feature]:
        """What the network sees, in the order of the examples."""

    def cut_as_trained(self, setup: TaskSetup, examples: Sequence[Example]) -> None:
        """Let the tokenizer cut texts as these examples, which a head is trained on, were cut.

        It is saved with the head, for programs that do not have this code.
        """
        setup.tokenizer.model_max_length = setup.length

    def cut_otherwise(self, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase) -> str:
        """How words that `cut` makes differ from those of the examples; empty if they do not."""
        return ""

    def cut(self, example: Example, tokenizer: PreTrainedTokenizerBase) -> Example:
        """An example to be predicted, in words as the tokenizer of the head cuts texts."""
        return example

    def units(self, examples: Sequence[Example]) -> tuple[float, float]:
        """Mean and standard deviation of the numbers of training examples; 0 and 1 of labels."""
        return 0.0, 1.0

    def has_unanswerable(self, examples: Sequence[Example]) -> bool:
        """Whether training examples have no answer span, so that a prediction may have none."""
        return False

    def finish(self, network: nn.Module, setup: TaskSetup) -> None:  # noqa: B027
        """Change a trained network so that it answers with the default `setup.units`."""

    @abstractmethod
    def answer(self, example: Example, outputs: Outputs, setup: TaskSetup) -> Answer:
        """The answer for an example."""

    def answers(
        self, examples: Sequence[Example], outputs: Sequence[Outputs], setup: TaskSetup
    ) -> list[Answer]:
        """An answer for each example."""
        pairs = zip(examples, outputs, strict=True)
        return [self.answer(example, own, setup) for example, own in pairs]

    def tuned(
        self, setup: TaskSetup, examples: Sequence[Example], outputs: Sequence[Outputs]
    ) -> TaskSetup:
        """The set-up with which these outputs, for dev examples, give the best answers."""
        return setup

    def submitted_by_id(self, example: Example) -> bool:
        """Whether a submission to CLUE is one object of all answers by `id`."""
        return False

    def submitted(self, example: Example, answer: Answer) -> Any:
        """An answer as CLUE's submissions have it: keys of a line beside `id`, or a text."""
        return {self.scored: answer[self.scored]}

    def truth(self, example: Example) -> Any:
        """The true answer of an example, as `scored_by` takes it."""
        return example[self.target]

    def scores(
        self, examples: Sequence[Example], answers: Sequence[Answer], labels: Sequence[str] = ()
    ) -> dict[str, float]:
        """Scores by name, `metric` first; `labels` are those of the head."""
        from pipeline.finetuning.judging import metrics  # a served head gives no scores

        found: dict[str, float] = getattr(metrics, self.scored_by)(
            [self.truth(example) for example in examples],
            [answer[self.scored] for answer in answers],
            *([labels] if self.scored_with_labels else []),
        )
        return found

    def share(self, example: Example, answer: Answer) -> tuple[float, float]:
        """What an example adds to the numerator and the denominator of the metric.

        Minus the error and 1 where the metric is no ratio.
        """
        return float(answer[self.target] == example[self.target]), 1.0

    def confidences(self, example: Example, answer: Answer) -> list[tuple[float, bool]]:
        """The probability of each answer (of each entity that was found), and whether it is right.

        Empty where answers have no probability.
        """
        shares = answer.get("probabilities", [])
        values = shares.values() if isinstance(shares, dict) else shares
        hits, possible = self.share(example, answer)
        return [(max(values), hits == possible)] if values else []

    def trivial_answers(
        self, train: Sequence[Example], examples: Sequence[Example]
    ) -> list[Answer]:
        """Answers that ignore what is asked: the baseline that a network has to beat."""
        targets = Counter(example[self.target] for example in train)
        return [{self.target: targets.most_common(1)[0][0]}] * len(examples)

    def label_pairs(self, example: Example, answer: Answer) -> list[tuple[str, str]]:
        """The true label and the one that was found; of entities, for each word its type.

        Empty where an answer is not one label.
        """
        return [(example["label"], answer["label"])] if self.scored == "label" else []

    def logits(self, output: Any, batch: FeatureBatch) -> Tensor:
        """[..., K] from the network's output."""
        return output.logits

    def published(self, record: Example) -> Example:
        """A record of a file as an example.

        Names and forms of published data sets become those of this task. Raises TaskError, without
        a place, where that is not possible.
        """
        for field, names in self.aliases.items():
            name = next((each for each in names if each in record), None)
            if field not in record and name:
                record = {field if key == name else key: record[key] for key in record}
        for key, kind in self.fields.items():
            if kind is list and isinstance(record.get(key), str):
                cell = listed(record[key], key, words=self.words_in_columns)
                record = record | {key: cell}
        return record

    def without_target(self, record: Example) -> Example:
        """A record of a file without what `published` takes for its target."""
        names = (self.target, *self.aliases.get(self.target, ()))
        return without(record, *[name for name in names if name in record][:1])

    def labels_of(self, examples: Iterable[Example]) -> set[str]:
        """All labels that occur as targets."""
        return set()

    def label_set(self, examples: Iterable[Example]) -> list[str]:
        """The labels of the training examples, in a fixed order."""
        return in_order(self.labels_of(examples))

    def nothing_to_learn(self, examples: list[Example]) -> str:
        """Why the training examples teach nothing; empty if they do."""
        if not self.has_labels or len(labels := self.label_set(examples)) > 1:
            return ""
        return f"every label is {labels[0]}" if labels else "no example has a label"

    def nothing_to_score(self, examples: Sequence[Example]) -> str:
        """Why even right answers to these examples would score 0; empty if they would not."""
        return ""

    def from_text(self, line: str) -> Example | None:
        """An example without its target from a line of plain text, where the task allows that."""
        return None

    def unify(self, examples: list[Example], path: str, notes: list[str]) -> None:  # noqa: B027
        """Bring the targets of a file into one form, in place, and note what was done.

        Raises TaskError where they may mean different things.
        """

    def unfit(self, example: Example, tokenizer: PreTrainedTokenizerBase, length: int) -> str:
        """Why an example cannot be shown to the network as a whole; empty if it can."""
        return ""

    def target_sizes(self, examples: Sequence[Example], setup: TaskSetup) -> list[int]:
        """Tokens of the target of each example, 0 if no window shows the whole target."""
        return [1] * len(examples)

    def visible(self, examples: list[Example], setup: TaskSetup) -> list[Example]:
        """The examples, their targets reduced to what gives tokens."""
        return examples

    def identity(self, example: Example) -> Any:
        """What tells an example from others of its file; None where it has no `id`."""
        return example.get("id")

    def example(self, record: Example, place: str) -> Example:
        """What `published` says of a record, with the place in its errors."""
        try:
            return self.published(record)
        except TaskError as error:
            raise TaskError(f"{place}: {error}") from None

    def blank(self, example: Example) -> str:
        """The first field that must hold a visible character and holds none; empty if all do."""
        for key, kind in self.fields.items():
            text = example[key] if kind is str else "".join(example[key])
            if key not in self.may_be_blank and not any(map(is_visible, text)):
                return key
        return ""

    def check_fields(self, example: Example, place: str) -> Example:
        """The example, if it has the fields that the network reads; its target is not checked."""
        for key, kind in self.fields.items():
            require(example, key, kind, place, self.name)
            if kind is list and not all(isinstance(item, str) and item for item in example[key]):
                raise TaskError(
                    f"{place}, key {key}: expected a list of strings that are not empty"
                )
        return example


def encode(setup: TaskSetup, *texts: list[str], **options: Any) -> BatchEncoding:
    """Token ids and segments of texts or pairs of texts, cut to the length."""
    return setup.tokenizer(
        *texts,
        max_length=setup.length,
        return_token_type_ids=True,
        return_attention_mask=False,
        **options,
    )


def tokens_at(encoded: BatchEncoding, index: int) -> Tokens:
    """One encoded sequence."""
    return Tokens(encoded["input_ids"][index], encoded["token_type_ids"][index])


def by_label(labels: Sequence[str], shares: NDArray[np.floating]) -> dict[str, float]:
    """Probabilities by label, in the order of the labels; of the LISTED likeliest if they are more.

    Of thousands of labels, those of all examples would be gigabytes of memory, and of files.
    """
    chosen = np.sort(np.argsort(-shares, kind="stable")[:LISTED]).tolist()
    return {labels[number]: float(shares[number]) for number in chosen}


def log_softmax(values: Logits) -> Logits:
    """Log probabilities along the last axis."""
    shifted = values - values.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def softmax(values: Logits) -> Logits:
    """Probabilities along the last axis."""
    return np.exp(log_softmax(values))
