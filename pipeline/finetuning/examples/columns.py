"""How the columns of a file with task data are called."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from pipeline.errors import TaskError
from pipeline.finetuning.examples.jsonl import Example

if TYPE_CHECKING:  # tasks import tables, which import this
    from pipeline.finetuning.tasks.base import Task

Record = tuple[str, Example | TaskError]
"""Its place, for messages, and the record or why it cannot be read."""


class Columns(NamedTuple):
    """How the columns of a file are called."""

    renamed: Mapping[str, str | int]
    """Name of a field → name of its column, or its number from 0 in a file without names."""
    known: Mapping[str, Sequence[str]]
    """Name of a field → names that published files have for it."""
    needed: Sequence[str]
    """Fields without which there is no example."""
    either: Sequence[str]
    """Fields of which an example has one; empty if all that it has are `needed`."""
    order: Sequence[str]
    """Fields and target, as they stand in a file without names; empty if files differ in that."""
    target: str
    """Key of what is to be predicted."""
    may_be_blank: Collection[str]
    """Fields, or the target, that may hold nothing."""
    words: bool
    """Whether text files hold words with labels in CoNLL's columns."""
    setting: str
    """What sets `renamed`, for messages."""

    @classmethod
    def of(
        cls,
        task: Task,
        renamed: Mapping[str, str | int] | None = None,
        setting: str = "data.columns",
    ) -> Columns:
        """The columns that a task needs and knows."""
        needed = [name for name in task.fields if name in task.sample]
        return cls(
            renamed=renamed or {},
            known=task.aliases,
            needed=needed,
            either=[each for each in (*task.fields, *task.sample) if each not in needed],
            order=task.order,
            target=task.target,
            may_be_blank=task.may_be_blank,
            words=task.words_in_columns,
            setting=setting,
        )

    @property
    def numbers(self) -> dict[str, int]:
        """Numbers of columns by field."""
        return {field: each for field, each in self.renamed.items() if isinstance(each, int)}

    @property
    def wanted(self) -> str:
        """The fields of an example, for messages."""
        return ", ".join(self.needed) or " or ".join(self.either)

    def are_named(self, names: Collection[str]) -> bool:
        """Whether these names of columns are those of an example's fields."""

        def is_named(field: str) -> bool:
            return not self.names_of(field).isdisjoint(names)

        return all(map(is_named, self.needed)) and any(map(is_named, self.either or self.needed))

    def names_of(self, field: str) -> set[str]:
        """What a file may call a field."""
        renamed = self.renamed.get(field)
        own = {renamed} if isinstance(renamed, str) else set()
        return {field, *own, *self.known.get(field, ())}

    def without_empty(self, row: Example) -> Example:
        """A row without the cells that hold nothing, unless that says something.

        A text that holds nothing is a blank one, and some targets hold no label.
        """
        kept = set().union(*map(self.names_of, (*self.needed, *self.either, *self.may_be_blank)))
        return {name: row[name] for name in row if row[name] not in ("", None) or name in kept}
