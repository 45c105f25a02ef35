"""The tasks that a head can be fine-tuned for, by the name that `finetune.task` gives.

| task | what an example holds |
|---|---|
| classification | `text`, `label` |
| multilabel | `text`, `labels`: any number of labels |
| regression | `text`, `label`: a number |
| pair | `sentence1`, `sentence2`, `label` |
| similarity | `sentence1`, `sentence2`, `label`: a number |
| ner | `tokens` (mostly single characters) or `text`, `labels` (as many; BIO, IOB1, BIOES …) |
| choice | `context`, `question`, `choices`, `answer` (index of a choice, from 0) |
| span | `context`, `question`, `answers`: a list of `{text, start}` |

Files are JSONL, tables or of the forms in which public data sets come (`formats`); other names of
keys are known for some (`aliases`) or given by `data.columns`. An `id` must be unique in its file;
other keys are allowed and ignored. A text must have a visible
character. Test files may lack the targets. A new task is a class like these, in a file of its own.
"""

from pipeline.finetuning.tasks.base import Task
from pipeline.finetuning.tasks.choice import Choice
from pipeline.finetuning.tasks.classification import Classification, Pair
from pipeline.finetuning.tasks.entities import Entities
from pipeline.finetuning.tasks.multilabel import MultiLabel
from pipeline.finetuning.tasks.regression import Regression, Similarity
from pipeline.finetuning.tasks.span import Span

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Classification(),
        MultiLabel(),
        Regression(),
        Pair(),
        Similarity(),
        Entities(),
        Choice(),
        Span(),
    )
}
