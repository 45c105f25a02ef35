"""A head as MLflow serves it: rows of texts in, rows of answers out."""

import threading
from typing import Any

import numpy as np
import pandas as pd
from mlflow.pyfunc import PythonModel

from pipeline.finetuning.prediction.predict import Head


class ServedHead(PythonModel):
    """Answers of the head whose folder is the artifact `head`."""

    def __init__(self) -> None:
        # MLflow answers each request in a thread, and a tokenizer cuts texts as its last caller
        # asked.
        self._turn = threading.Lock()

    def load_context(self, context: Any) -> None:
        self.head = Head.load(context.artifacts["head"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """One row of answers for each row of texts; a blank text has empty answers.

        MLflow makes a DataFrame of what a caller gives: rows by column, a list of mappings, or
        texts by column.

        Raises TaskError for a row that cannot be read.
        """
        texts = [key for key, form in self.head.task.served.items() if form is str]
        # Of columns that are lists of texts, MLflow makes a single row, with lists in its cells.
        if given := [key for key in texts if key in model_input]:
            model_input = model_input.explode(given)
        rows = [_plain(row, texts) for row in model_input.to_dict("records")]
        columns = list(self.head.task.answer_form)
        with self._turn:
            examples = [self.head.example(row, f"row {number}") for number, row in enumerate(rows)]
            answers = self.head.answers(examples)
        found = [answer or dict.fromkeys(columns) for answer in answers]
        # With rows numbered anew, pandas would join answers to the texts of other rows.
        return pd.DataFrame(found, index=model_input.index, columns=columns, dtype=object)


def _plain(row: dict[str, Any], texts: list[str]) -> dict[str, Any]:
    """Lists instead of arrays, into which MLflow turns them, and no keys without a value.

    Of `texts`, one without a value is blank.
    """
    lists = {
        key: each.tolist() if isinstance(each, np.ndarray) else each for key, each in row.items()
    }
    given = {key: each for key, each in lists.items() if isinstance(each, list) or pd.notna(each)}
    return {key: "" for key in texts if key in row} | given
