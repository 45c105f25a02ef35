"""Numbers of any size are learnt, and given as they are."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from pipeline.finetuning.prediction.predict import predict
from tests.pipeline.finetuning.conftest import settings, write_rows
from tests.pipeline.finetuning.in_process import finetune


@pytest.mark.parametrize(
    ("task", "factor", "offset"), [("regression", 1, 2000), ("similarity", 50, 0)]
)
def test_numbers_far_from_0_or_from_each_other_are_learnt(
    task, factor, offset, export, data, tmp_path
):
    files, rows = {}, {}
    for name in ("train", "dev"):
        with open(data[task][name], encoding="utf-8") as file:
            rows[name] = [json.loads(line) for line in file]
        for row in rows[name]:
            row["label"] = row["label"] * factor + offset
        files[name] = write_rows(tmp_path / f"{name}.jsonl", *rows[name])
    chosen = settings(task, {task: files}, dropout=0.0, precision="bf16")
    result = finetune(chosen, str(export), tmp_path / "head", seed=1)
    assert result.dev["spearman"] > 0.85
    texts = [{key: row[key] for key in row if key != "label"} for row in rows["dev"]]
    found = predict(result.folder, [("row", text) for text in texts])
    scores = np.array([row["prediction"]["score"] for row in found])
    labels = np.array([row["label"] for row in rows["dev"]])
    assert np.abs(scores - labels).mean() < 0.5 * labels.std()
    assert np.corrcoef(scores, labels)[0, 1] == pytest.approx(result.dev["pearson"], abs=0.02)
    tokenizer = AutoTokenizer.from_pretrained(result.folder)
    network = AutoModelForSequenceClassification.from_pretrained(
        result.folder, trust_remote_code=True
    )
    with torch.no_grad():
        logits = network.eval()(**tokenizer(*texts[0].values(), return_tensors="pt")).logits
    assert float(logits) == pytest.approx(scores[0], rel=1e-4)
