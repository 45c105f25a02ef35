"""Files of task data that tests write and read."""

import json

from pipeline.finetuning.tasks import TASKS
from pipeline.finetuning.tasks.base import Findings


def read(task, path, text=None, **more):
    """Examples and findings of a file, written first if there is a text."""
    if text is not None:
        path.write_text(text, "utf-8")
    findings = Findings.none()
    return TASKS[task].read(str(path), findings, **more), findings


def lines(*rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
