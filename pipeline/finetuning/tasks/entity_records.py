"""Entities in published records, given by their places in the text."""

from typing import Any

from pipeline.errors import TaskError
from pipeline.finetuning.examples.tables import LABEL
from pipeline.finetuning.tasks.bio import EntitySpan
from pipeline.finetuning.tasks.cells import PADDLE

PLACES = (
    ("start", "end", "type"),
    ("start", "end", "label"),
    ("start_offset", "end_offset", "label"),
    ("start_idx", "end_idx", "type"),
    ("start_pos", "end_pos", "label_type"),
    ("start", "end", "labels"),
)
"""Keys of an entity in predictions, in spaCy's, doccano's, CMeEE's, CCKS' and Label Studio's files,
of which the last has a list of one type. The end is excluded, or included where the entity's own
text, `text` or `entity`, shows it."""


def places_of(key: str, value: Any) -> list[EntitySpan] | None:
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
    if key != "entities" and not all(isinstance(each, list | dict) for each in value):
        return None  # these are the labels of words
    return [_place(key, each) for each in value]


def is_list_cell(key: str, cell: str) -> bool:
    """Whether a cell holds words with PaddleNLP's separator or, of `label`, labels."""
    return PADDLE in cell or (key == "label" and bool(LABEL.fullmatch((cell.split() or [""])[0])))


def _place(key: str, entity: Any) -> EntitySpan:
    if isinstance(entity, dict):
        for start, end, kind in PLACES:
            if entity.keys() >= {start, end, kind}:
                text = entity.get("text", entity.get("entity"))
                given = entity[kind]
                one = given[0] if isinstance(given, list) and len(given) == 1 else given
                return EntitySpan(entity[start], entity[end], one, text)
    if isinstance(entity, list) and len(entity) == 3:
        return EntitySpan(*entity)
    form = "objects with start, end and type, or lists [start, end, type]"
    raise TaskError(f"key {key}: expected {form}, found {entity!r:.60}")
