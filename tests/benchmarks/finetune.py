"""Steps of fine-tuning against transformers' `Trainer`: `python -m tests.benchmarks.finetune`.

The same network (random weights of an export's configuration, or a small one), the same examples of
LCQMC's form with lengths drawn as there, batch, length, learning rate, and AdamW; fp32, one thread.
The two take turns, each for one epoch of the same examples, and both count everything from features
to updated weights. The figure is the median over the turns of the ratio of CPU seconds, so 1.0 is
as fast and less is faster. `Trainer` runs twice: with its random batches, and with batches of
examples of similar length, which are what this project makes.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.utils.data import Dataset as TorchDataset
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)

from model import NezhaConfig
from pipeline.finetuning.examples.features import Feature, Tokens
from pipeline.finetuning.judging.evaluation import Dataset
from pipeline.finetuning.network import TaskNetwork
from pipeline.finetuning.tasks import TASKS
from pipeline.finetuning.tasks.base import TaskSetup
from pipeline.finetuning.training import train
from pipeline.settings.finetuning import FinetuneSettings

PAD = 0


class Padder:
    """Stands in for a tokenizer, of which both sides need the padding alone."""

    pad_token_id = PAD
    padding_side = "right"
    model_input_names = ("input_ids", "token_type_ids", "attention_mask")
    deprecation_warnings: dict[str, bool] = {}  # noqa: RUF012  transformers reads it

    def pad(self, rows: list[dict[str, Any]], **_: Any) -> dict[str, torch.Tensor]:
        """Rows to the longest, as `PreTrainedTokenizer.pad` does."""
        length = max(len(row["input_ids"]) for row in rows)
        batch = {
            name: torch.tensor([row[name] + [0] * (length - len(row[name])) for row in rows])
            for name in self.model_input_names
        }
        return batch | {"label": torch.tensor([row["label"] for row in rows])}


class Rows(TorchDataset):
    def __init__(self, features: list[Feature]) -> None:
        self.rows = [
            {
                "input_ids": feature.inputs[0].ids,
                "token_type_ids": feature.inputs[0].types,
                "attention_mask": [1] * feature.length,
                "label": feature.target[0],
            }
            for feature in features
        ]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> dict[str, Any]:
        return dict(self.rows[place])


def features_of(number: int, vocabulary: int) -> list[Feature]:
    """Pairs of two short sentences: 15 to 60 tokens, most about 25."""
    draw = random.Random(0)
    found = []
    for i in range(number):
        length = min(60, 15 + int(draw.expovariate(1 / 10)))
        ids = [draw.randrange(5, vocabulary) for _ in range(length)]
        types = [0] * (length // 2) + [1] * (length - length // 2)
        found.append(Feature(i, [Tokens(ids, types)], [draw.randrange(2)], []))
    return found


def ours(config: Any, features: list[Feature], settings: FinetuneSettings) -> Callable[[], None]:
    task, setup = TASKS["pair"], TaskSetup(Padder(), ["0", "1"], 64)
    sets = {"train": Dataset([], features), "dev": Dataset([], [])}

    def epoch() -> None:
        network = AutoModelForSequenceClassification.from_config(config)
        model = TaskNetwork(task, setup, network, settings.precision)
        train(model, settings, 0, sets, lambda line: None)

    return epoch


def trainer(
    config: Any, features: list[Feature], settings: FinetuneSettings, folder: str, grouped: bool
) -> Callable[[], None]:
    arguments = TrainingArguments(
        output_dir=folder,
        num_train_epochs=1,
        per_device_train_batch_size=settings.batch,
        learning_rate=settings.lr,
        weight_decay=settings.weight_decay,
        warmup_steps=round(settings.warmup * len(features) / settings.batch),
        train_sampling_strategy="group_by_length" if grouped else "random",
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
    )
    rows = Rows(features)

    def epoch() -> None:
        network = AutoModelForSequenceClassification.from_config(config)
        collator = DataCollatorWithPadding(Padder())
        peer = Trainer(network, arguments, collator, train_dataset=rows)
        peer.remove_callback(PrinterCallback)
        peer.train()

    return epoch


def cpu_seconds(work: Callable[[], None]) -> float:
    before = time.process_time()
    work()
    return time.process_time() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--export", help="Hugging Face folder whose network is taken")
    parser.add_argument("--examples", type=int, default=640)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.export:
        config = AutoConfig.from_pretrained(given.export)
    else:
        config = NezhaConfig(
            vocab_size=5000,
            hidden_size=128,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=512,
        )
    settings = FinetuneSettings(task="pair", epochs=1, batch=given.batch, precision="fp32")
    features = features_of(given.examples, config.vocab_size)
    with tempfile.TemporaryDirectory() as folder:
        ways = {
            "this project": ours(config, features, settings),
            "Trainer": trainer(config, features, settings, folder, False),
            "Trainer, grouped by length": trainer(config, features, settings, folder, True),
        }
        for work in ways.values():
            work()  # the first turn of each compiles and loads
        turns = [
            {name: cpu_seconds(work) for name, work in ways.items()} for _ in range(given.turns)
        ]
    table = Table("way", "CPU s an epoch (median)", "this project : it (median)")
    rows = {}
    for name in ways:
        seconds = statistics.median(turn[name] for turn in turns)
        ratio = statistics.median(turn["this project"] / turn[name] for turn in turns)
        rows[name] = {"seconds": seconds, "ratio": ratio}
        table.add_row(name, f"{seconds:.2f}", f"{ratio:.2f}")
    Console().print(table)
    if given.output:
        given.output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
