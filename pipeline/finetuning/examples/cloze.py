"""ChID: the idioms that a text lacks, each blank as a question with choices (arXiv 1906.01265).

| release | a line |
|---|---|
| CLUE | `content`: texts with `#idiom000378#`, `candidates` of them all, each of which
stands once at most; the indices of the answers by blank in `train_answer.json` beside
`train.json` |
| FewCLUE | `content`: a text with `#idiom#`, `candidates`, `answer` |
| the authors' | `content`, and a list `candidates` and the idiom, in `groundTruth`, of each blank |
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pipeline.errors import TaskError
from pipeline.files.storage import filesystem
from pipeline.finetuning.examples.columns import Record
from pipeline.finetuning.examples.jsonl import Example, parse_object, without
from pipeline.finetuning.examples.lines import read_lines

BLANK = re.compile("#idiom[0-9]*#")
OTHER = "[MASK]" * 4
"""What stands for the other blanks of a text: an idiom has four characters."""
SUFFIX = re.compile(r"\.\w+(\.\w+)?$")


def unfold(path: str, records: Iterable[Record]) -> Iterator[Record]:
    """The records of a file, those of ChID as one for each blank."""
    answers: Mapping[str, Any] | None = None
    for place, record in records:
        if isinstance(record, TaskError) or not {"content", "candidates"} <= record.keys():
            yield place, record
            continue
        if answers is None:
            answers = _answers(path)
        try:
            blanks = list(_blanks(record, answers))
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            yield place, TaskError(f"{place}: not of a form of ChID: {error!r}")
            continue
        if not blanks:  # something else
            yield place, record
        for number, blank in enumerate(blanks):
            yield f"{place}, blank {number}", blank


def _answers(path: str) -> Mapping[str, Any]:
    """What the file of answers beside a file holds; nothing if there is none."""
    beside = SUFFIX.sub(lambda suffix: f"_answer{suffix[0]}", path)
    system, inner = filesystem(beside)
    if beside == path or not system.exists(inner):
        return {}
    return parse_object("\n".join(line for _, line in read_lines(beside)), beside)


def _blanks(record: Example, answers: Mapping[str, Any]) -> Iterator[Example]:
    """A question for each blank: what stands before it, and `after` it."""
    texts = [record["content"]] if isinstance(record["content"], str) else record["content"]
    candidates = record["candidates"]
    rest = without(record, "content", "candidates", "groundTruth", "realCount")
    group = {} if isinstance(candidates[0], list) else _group(texts)
    number = 0
    for text in texts:
        parts = BLANK.split(text)
        for i, name in enumerate(BLANK.findall(text), 1):
            found = {
                "context": "",
                "question": OTHER.join(parts[:i]),
                "after": OTHER.join(parts[i:]),
            }
            own = candidates[number] if isinstance(candidates[0], list) else candidates
            found |= {"choices": own}
            if "groundTruth" in record:
                found["answer"] = record["groundTruth"][number]
            elif name in answers:
                found["answer"] = answers[name]
            yield rest | found | ({"id": name} if name != "#idiom#" else {}) | group
            number += 1


def _group(texts: list[str]) -> dict[str, str]:
    """What tells that several blanks share their candidates: the name of the first one."""
    names = [name for text in texts for name in BLANK.findall(text)]
    return {"blank_group": names[0]} if len(names) > 1 and "#idiom#" not in names else {}
