"""What is known of a fine-tuning before anything is trained, and what its result depends on."""

from pathlib import Path
from typing import Any, NamedTuple

from pipeline.files.hashing import hash_of
from pipeline.finetuning import loading
from pipeline.finetuning.checks import SETS
from pipeline.finetuning.examples.data import TaskExamples, hash_file, read_examples
from pipeline.finetuning.judging.evaluation import scores_of
from pipeline.finetuning.tasks import TASKS
from pipeline.settings.finetuning import FinetuneSettings

RECIPE = 8
"""Version of what fine-tuning computes. Raise it with a change that changes results."""


class Examined(NamedTuple):
    """What is known of a fine-tuning before anything is trained."""

    fingerprint: str
    """Hash of the settings, data and weights that all its trials have in common."""
    sizes: dict[str, int]
    """Examples by set."""
    notes: list[str]
    trivial: dict[str, dict[str, float]]
    """Scores on dev and test of answers that ignore the input (`Task.trivial_answers`)."""
    predicts: bool
    """Whether the test examples have no targets and are predicted."""
    judged_on: dict[str, str]
    """Hash of the examples of dev and of test that are used: equal hashes, comparable scores."""


def examine(settings: FinetuneSettings, export: str) -> Examined:
    """Read and check everything, before any training.

    Raises:
        TaskError: the data are missing or malformed; one message lists every line.
        ExportError: `export` is not a usable Hugging Face folder.
    """
    task, tokenizer = TASKS[settings.task], loading.load_tokenizer(export)
    loading.check_length(export, settings.data.length)
    data = read_examples(settings, tokenizer)
    trivial = {}
    for name in SETS:
        examples = data.sets[name]
        found = task.trivial_answers(data.sets["train"], examples)
        if scores := scores_of(task, examples, found, data.labels):
            trivial[name] = scores
            if reason := task.nothing_to_score(examples):
                path, first = getattr(settings.data, name), ", and the first epoch is kept"
                data.notes.append(
                    f"{path}: {reason}, so {task.metric} is 0 whatever is answered"
                    + first * (name == "dev")
                )
    return Examined(
        fingerprint=fingerprint(settings, data, export),
        sizes={name: len(each) for name, each in data.sets.items()},
        notes=data.notes,
        trivial=trivial,
        predicts=bool(data.sets["test"]) and "test" not in trivial,
        judged_on={name: hash_of(data.sets[name]) for name in SETS},
    )


def fingerprint(settings: FinetuneSettings, data: TaskExamples, export: str) -> str:
    """Hash of settings, examples and start, without what differs between the trials of a grid.

    `gpus` is left out too: it says where a trial runs, and changes no result. Several workers draw
    other dropout than one. The examples count as they are read: the name of a file tells its form.
    """
    chosen: dict[str, Any] = settings.model_dump(mode="json")
    if settings.workers == 1:
        del chosen["workers"]  # what was made before there was this setting stays valid
    for name in ("name", "checkpoint", "search", "lr", "batch", "gpus"):
        del chosen[name]
    for name in data.sets:
        del chosen["data"][name]
    suffixes = {".json", ".txt"}
    if not settings.from_scratch:
        suffixes |= {".safetensors", ".bin"}
    files = sorted(path for path in Path(export).iterdir() if path.suffix in suffixes)
    read = [data.sets, data.labels, data.longest]
    return hash_of([RECIPE, chosen, read, [hash_file(str(path)) for path in files]])
