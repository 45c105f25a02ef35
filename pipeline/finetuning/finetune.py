"""Fine-tuning: an export and task data to a scored Hugging Face folder."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import torch
from torch import nn

from pipeline.errors import ConfigError, ExportError, TaskError, TrainingError
from pipeline.finetuning import network as networks
from pipeline.finetuning import tasks
from pipeline.finetuning.kinds import KINDS, Answer, Kind, Setup
from pipeline.finetuning.network import Progress
from pipeline.finetuning.rows import Row, collate, training_batches
from pipeline.settings.finetuning import FinetuneSettings

WARMUP = 0.1
CLIP = 1.0
WEIGHT_DECAY = 0.01
SECONDS_BETWEEN_LINES = 30.0


class FinetuneResult(NamedTuple):
    """What came out of it; scores lie between 0 and 1."""

    metric: str
    """The score that picked the best epoch: accuracy or f1."""
    score: float | None
    """That score on test; on dev where there is no test set; None where there is neither."""
    dev: dict[str, float]
    test: dict[str, float]
    epochs: list[dict[str, float]]
    """`loss` and dev scores of each epoch of the trial that was kept."""
    trials: list[dict[str, float]]
    """lr, batch, seed and best dev score of each point of the grid."""
    seconds: float
    folder: str


class Part(NamedTuple):
    """A data set as the network sees it."""

    examples: list[tasks.Example]
    rows: list[Row]


class Trial(NamedTuple):
    """A point of the grid, trained."""

    point: dict[str, float]
    """lr, batch and seed."""
    epochs: list[dict[str, float]]
    dev: dict[str, float]
    """Scores of the best epoch."""
    weights: dict[str, Any]


def check(settings: FinetuneSettings) -> None:
    """Raise ConfigError for settings that can't be fine-tuned with."""
    mistakes = []
    if not settings.task:
        mistakes.append(f"finetune.task: choose one of {', '.join(KINDS)}")
    if not settings.data.train:
        mistakes.append("finetune.data.train: name the training examples (JSONL)")
    if len(list(_grid(settings, 0))) > 1 and not settings.data.dev:
        mistakes.append("finetune.search: needs finetune.data.dev to judge by")
    if mistakes:
        raise ConfigError(f"{len(mistakes)} wrong setting(s):\n  " + "\n  ".join(mistakes))


def finetune(
    settings: FinetuneSettings,
    export: str,
    output: Path,
    seed: int,
    from_scratch: bool = False,
    progress: Progress = lambda line: None,
) -> FinetuneResult:
    """Fine-tune every point of the grid, keep the best epoch on dev, and score it on test once.

    Equal arguments give an equal result on the same machine. `output` appears whole or not at all;
    one that the same data, export and settings made is kept as it is.

    Raises:
        ConfigError: task or training data are not named.
        TaskError: the data are missing or malformed; found out before anything is computed.
        ExportError: `export` is not a usable Hugging Face folder.
        TrainingError: the loss is not a number.
    """
    check(settings)
    begun = time.monotonic()
    from_scratch = from_scratch or settings.from_scratch
    kind = KINDS[settings.task]
    examples, labels = _read(settings)
    tokenizer = networks.load_tokenizer(export)
    fingerprint = _fingerprint(settings, export, seed, from_scratch)
    if known := _known(output, fingerprint):
        progress(f"{output} is there and still valid")
        return known
    setup = Setup(tokenizer, labels, settings.data.length)
    parts = {
        name: Part(each, kind.rows(each, setup) if each else []) for name, each in examples.items()
    }
    sizes = ", ".join(f"{len(part.examples):,} {name}" for name, part in parts.items())
    start = "random weights" if from_scratch else export
    progress(f"{settings.task} from {start}: {sizes} examples")

    best: Trial | None = None
    trials = []
    for point, point_seed in _grid(settings, seed):
        with _reproducible(point_seed):
            network = networks.build(kind, export, labels, settings.dropout, from_scratch)
            trial = _train(kind, network, point, point_seed, parts, setup, progress)
        trials.append(trial.point | trial.dev)
        if best is None or trial.dev[kind.metric] > best.dev[kind.metric]:
            best = trial
    if best is None:
        raise ConfigError("finetune.search: the grid has no point")
    network.load_state_dict(best.weights)
    test = evaluate(kind, network, parts["test"], settings.batch, setup)
    result = FinetuneResult(
        metric=kind.metric,
        score=(test or best.dev).get(kind.metric),
        dev=best.dev,
        test=test,
        epochs=best.epochs,
        trials=trials,
        seconds=round(time.monotonic() - begun, 1),
        folder=str(output),
    )
    facts = {"task": settings.task, "length": settings.data.length, "labels": labels}
    origin = {"export": export, "from_scratch": from_scratch, "fingerprint": fingerprint}
    output.parent.mkdir(parents=True, exist_ok=True)
    networks.save(network, tokenizer, export, output, facts | result._asdict() | origin)
    return result


def evaluate(
    kind: Kind, network: nn.Module, part: Part, batch: int, setup: Setup
) -> dict[str, float]:
    """Scores of a data set; none where it is empty."""
    if not part.examples:
        return {}
    return kind.scores(part.examples, answer(kind, network, part, batch, setup))


def answer(kind: Kind, network: nn.Module, part: Part, batch: int, setup: Setup) -> list[Answer]:
    """One answer an example."""
    logits = networks.infer(kind, network, part.rows, 2 * batch, setup.tokenizer.pad_token_id)
    rows: list[list[int]] = [[] for _ in part.examples]
    for i, row in enumerate(part.rows):
        rows[row.example].append(i)
    return [
        kind.answer(example, [part.rows[i] for i in own], [logits[i] for i in own], setup)
        for example, own in zip(part.examples, rows, strict=True)
    ]


def _train(
    kind: Kind,
    network: nn.Module,
    settings: FinetuneSettings,
    seed: int,
    parts: dict[str, Part],
    setup: Setup,
    progress: Progress,
) -> Trial:
    """Train all epochs; the weights returned are those of the best on dev, or the last."""
    rows, pad_id = parts["train"].rows, setup.tokenizer.pad_token_id
    device = networks.pick_device()
    network.to(device)
    steps = settings.epochs * math.ceil(len(rows) / settings.batch)
    optimizer = torch.optim.AdamW(_groups(network), lr=settings.lr, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share(step, steps))
    epochs: list[dict[str, float]] = []
    dev: dict[str, float] = {}
    weights: dict[str, Any] = {}
    said = time.monotonic()
    for epoch in range(settings.epochs):
        network.train()
        total = torch.zeros((), device=device)
        batches = training_batches(rows, settings.batch, seed, epoch)
        for done, chosen in enumerate(batches, 1):
            batch = collate(chosen, pad_id, kind.many)
            loss = networks.loss_of(networks.forward(kind, network, batch, device), batch.target)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), CLIP)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            total += loss.detach() * len(chosen)
            if time.monotonic() - said > SECONDS_BETWEEN_LINES:
                said = time.monotonic()
                progress(
                    f"  step {epoch * steps // settings.epochs + done}/{steps} loss {loss:.4f}"
                )
        mean = float(total) / len(rows)
        if not math.isfinite(mean):
            raise TrainingError(f"the loss of epoch {epoch + 1} is {mean}: lower finetune.lr")
        scores = evaluate(kind, network, parts["dev"], settings.batch, setup)
        epochs.append({"loss": mean} | scores)
        shown = f"  dev {kind.metric} {scores[kind.metric]:.4f}" if scores else ""
        progress(f"  epoch {epoch + 1}/{settings.epochs}  loss {mean:.4f}{shown}")
        if not scores or not dev or scores[kind.metric] > dev[kind.metric]:
            dev, weights = scores, copy.deepcopy(network.state_dict())
    return Trial({"lr": settings.lr, "batch": settings.batch, "seed": seed}, epochs, dev, weights)


def _groups(network: nn.Module) -> list[dict[str, Any]]:
    """Matrices decay; biases and LayerNorm, which are vectors, don't."""
    parameters = [each for each in network.parameters() if each.requires_grad]
    return [
        {"params": [each for each in parameters if each.dim() > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [each for each in parameters if each.dim() < 2], "weight_decay": 0.0},
    ]


def _share(step: int, steps: int) -> float:
    """Share of the peak learning rate: linear warm-up, then linear decay to 0."""
    warmup = max(1, round(WARMUP * steps))
    if step < warmup:
        return (step + 1) / warmup
    return max(0.0, (steps - step) / max(1, steps - warmup))


def _grid(settings: FinetuneSettings, seed: int) -> Iterator[tuple[FinetuneSettings, int]]:
    search = settings.search
    for lr, batch, point_seed in itertools.product(
        search.lr or [settings.lr], search.batch or [settings.batch], search.seeds or [seed]
    ):
        yield settings.model_copy(update={"lr": lr, "batch": batch}), point_seed


def _read(settings: FinetuneSettings) -> tuple[dict[str, list[tasks.Example]], list[str]]:
    """Examples by set (none where no file is named), and the labels of all training examples."""
    data, task = settings.data, settings.task
    train = tasks.read(task, data.train)
    labels = tasks.label_set(task, train)
    if task in ("classification", "pair", "ner") and len(labels) < 2:
        raise TaskError(f"{data.train}: every label is {labels[0]}, there is nothing to tell apart")
    others = {
        name: tasks.read(task, path, labels) if path else []
        for name, path in (("dev", data.dev), ("test", data.test))
    }
    return {"train": tasks.spread(train, data.examples), **others}, labels


@contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    """Seed torch, and ask it for deterministic kernels, as long as the block lasts."""
    before = torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield
    finally:
        torch.use_deterministic_algorithms(before)


def _fingerprint(settings: FinetuneSettings, export: str, seed: int, from_scratch: bool) -> str:
    """Hash of everything that the result depends on."""
    chosen = settings.model_dump(mode="json") | {"seed": seed, "from_scratch": from_scratch}
    digest = hashlib.sha256(json.dumps(chosen, sort_keys=True).encode())
    data = [path for path in (settings.data.train, settings.data.dev, settings.data.test) if path]
    kinds = {".json", ".txt"} if from_scratch else {".json", ".txt", ".safetensors", ".bin"}
    files = sorted(path for path in Path(export).iterdir() if path.suffix in kinds)
    for path in [*data, *map(str, files)]:
        with fsspec.open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _known(output: Path, fingerprint: str) -> FinetuneResult | None:
    """The result that lies in the folder, when it has this fingerprint."""
    try:
        found = networks.read_results(output)
    except ExportError:
        return None
    if found["fingerprint"] != fingerprint:
        return None
    return FinetuneResult(**{name: found[name] for name in FinetuneResult._fields})
