"""How the columns of a file with task data are called."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, NamedTuple

from pipeline.errors import TaskError
from pipeline.finetuning.examples.jsonl import Example

if TYPE_CHECKING:  # tasks import tables, which import this
    from pipeline.finetuning.tasks.base import Task

Record = tuple[str, Example | TaskError]
"""Its place, for messages, and the record or why it cannot be read."""


class Columns(NamedTuple):
    """How the columns of a file with examples of a task are called."""

    task: Task
    renamed: Mapping[str, str | int] = {}
    """Name of a field → name of its column, or its number from 0 in a file without names."""
    setting: str = "data.columns"
    """What sets `renamed`, for messages."""

    @property
    def needed(self) -> list[str]:
        """Fields without which there is no example."""
        return [name for name in self.task.fields if name in self.task.sample]

    @property
    def either(self) -> list[str]:
        """Fields of which an example has one; empty if all that it has are `needed`."""
        needed = self.needed
        return [each for each in (*self.task.fields, *self.task.sample) if each not in needed]

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
        return {field, *own, *self.task.aliases.get(field, ())}

    def without_empty(self, row: Example) -> Example:
        """A row without the cells that hold nothing, unless that says something.

        A text that holds nothing is a blank one, and some targets hold no label.
        """
        fields = (*self.needed, *self.either, *self.task.may_be_blank)
        kept = set().union(*map(self.names_of, fields))
        return {name: row[name] for name in row if row[name] not in ("", None) or name in kept}
