"""Task networks: made from an export, run over rows, and kept as Hugging Face folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

import model  # noqa: F401  registers Nezha with the Auto classes
from pipeline.errors import ExportError
from pipeline.finetuning.kinds import Kind, Logits
from pipeline.finetuning.rows import IGNORED, Row, RowBatch, collate

Progress = Callable[[str], None]
RESULTS = "results.json"
DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")


def load_tokenizer(export: str) -> PreTrainedTokenizerBase:
    """The tokenizer of an export. Raises ExportError when the folder is not a usable export."""
    if not (Path(export) / "config.json").is_file():
        raise ExportError(
            f"{export or 'finetune.checkpoint'}: no Hugging Face folder (config.json is missing); "
            "give the folder that `python -m jobs.export` made"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(export)
        size = AutoConfig.from_pretrained(export).vocab_size
    except (OSError, ValueError) as error:
        raise ExportError(f"{export}: {error}") from error
    missing = [
        name for name in ("cls_token", "sep_token", "pad_token") if not getattr(tokenizer, name)
    ]
    if missing or not tokenizer.is_fast:
        raise ExportError(f"{export}: its tokenizer has no {', '.join(missing) or 'fast form'}")
    if not 100 < len(tokenizer) <= size:
        raise ExportError(
            f"{export}: its tokenizer knows {len(tokenizer)} entries, its config.json says {size}"
        )
    return tokenizer


def build(
    kind: Kind, export: str, labels: Sequence[str], dropout: float, from_scratch: bool
) -> PreTrainedModel:
    """The task's network with the export's weights and a new head, or with random weights.

    Raises ExportError when the folder lacks weights of the encoder.
    """
    changed: dict[str, Any] = dict.fromkeys(DROPOUTS, dropout)
    if labels:
        changed["id2label"] = dict(enumerate(labels))
        changed["label2id"] = {label: i for i, label in enumerate(labels)}
    if from_scratch:
        config = AutoConfig.from_pretrained(export, **changed)
        return kind.network.from_config(config).float()
    try:
        with quiet():
            network, report = kind.network.from_pretrained(
                export, dtype=torch.float32, output_loading_info=True, **changed
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise ExportError(f"{export}: {error}") from error
    body = f"{network.base_model_prefix}."
    lost = [key for key in report["missing_keys"] if key.startswith(body) and ".pooler." not in key]
    if lost:
        raise ExportError(f"{export}: weights are missing, {sorted(lost)[0]} among {len(lost)}")
    return network


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' bars and its table of the weights that a head lacks, as it must."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def pick_device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(device: torch.device) -> AbstractContextManager[Any]:
    """bf16 where the device computes in it.

    On a CPU with AVX-512 BF16 a step of a network of 4 layers of 256 takes 0.4 of fp32's time.
    """
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=native)


def forward(kind: Kind, network: nn.Module, batch: RowBatch, device: torch.device) -> Tensor:
    """fp32 logits [..., K] of a batch."""
    inputs = {name: tensor.to(device) for name, tensor in batch.inputs.items()}
    moved = RowBatch(
        inputs, batch.target, None if batch.choices is None else batch.choices.to(device)
    )
    with autocast(device):
        output = network(**inputs)
    return kind.logits(output, moved).float()


def loss_of(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy of logits [..., K] over targets [...] that count; 0 where none does."""
    target = target.to(logits.device).flatten()
    total = F.cross_entropy(logits.flatten(0, -2), target, ignore_index=IGNORED, reduction="sum")
    return total / (target != IGNORED).sum().clamp(min=1)


@torch.no_grad()
def infer(
    kind: Kind, network: nn.Module, rows: Sequence[Row], batch: int, pad_id: int
) -> list[Logits]:
    """Logits of every row, padded as its batch was; rows of like length share a batch."""
    network.eval()
    device = next(network.parameters()).device
    order = sorted(range(len(rows)), key=lambda i: rows[i].length)
    found: list[Logits] = [np.empty(0)] * len(rows)
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        logits = forward(
            kind, network, collate([rows[i] for i in chosen], pad_id, kind.many), device
        )
        for i, values in zip(chosen, logits.cpu().numpy(), strict=True):
            found[i] = values
    return found


def save(
    network: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    export: str,
    output: Path,
    results: dict[str, Any],
) -> None:
    """Write network, tokenizer, the export's modelling code and `results.json`, all or nothing."""
    temporary = output.with_name(f"{output.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    with quiet():
        network.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    for path in [*Path(export).glob("*.py"), Path(export) / "vocab.txt"]:
        if path.is_file():
            shutil.copyfile(path, temporary / path.name)
    text = json.dumps(results, indent=2, ensure_ascii=False)
    (temporary / RESULTS).write_text(text + "\n", encoding="utf-8")
    shutil.rmtree(output, ignore_errors=True)
    temporary.rename(output)


def read_results(folder: Path) -> dict[str, Any]:
    """What `save` wrote. Raises ExportError when the folder is not a fine-tuned one."""
    try:
        return json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(
            f"{folder}: not the result of `python -m jobs.finetune`: {error}"
        ) from error
