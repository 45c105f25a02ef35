"""Files of task data that tests write and read."""

import json

from pipeline.finetuning.examples.task_file import DataMistakes, read_task_file
from pipeline.finetuning.tasks import TASKS


def read(task, path, text=None, **more):
    """Examples and findings of a file, written first if there is a text."""
    if text is not None:
        path.write_text(text, "utf-8")
    findings = DataMistakes.none()
    return read_task_file(TASKS[task], str(path), findings, **more), findings


def lines(*rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
