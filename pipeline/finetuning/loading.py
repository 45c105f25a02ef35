"""Networks and tokenizers from Hugging Face folders, for a task."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from model import NezhaConfig  # its package registers Nezha with the Auto classes
from pipeline.errors import ExportError
from pipeline.export.tokenizer import INPUTS
from pipeline.finetuning.tasks.base import Task


def inputs_of(config: Any) -> list[str]:
    """Names of the inputs of a network with this configuration: segments only if it has several."""
    several = getattr(config, "type_vocab_size", 0) > 1
    return [name for name in INPUTS if several or name != "token_type_ids"]


def load_config(folder: str) -> PreTrainedConfig:
    """The configuration of a network. Raises ExportError for what is no Hugging Face folder."""
    if not (Path(folder) / "config.json").is_file():
        raise ExportError(
            f"{folder or 'finetune.checkpoint'}: not a Hugging Face folder (config.json is "
            "missing); give the folder that `python -m jobs.export` made"
        )
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # a configuration of wrong types has a class of its own
        raise ExportError(f"{folder}: not a Hugging Face folder: {error}") from error


def check_length(export: str, length: int) -> None:
    """Raise ExportError where a network has learned positions for fewer tokens."""
    config = load_config(export)
    # Not by its class: code that an export brings has a class of its own.
    relative = config.model_type == NezhaConfig.model_type and not config.absolute_positions
    positions = getattr(config, "max_position_embeddings", None)
    if not relative and positions is not None and length > positions:
        raise ExportError(
            f"{export}: it has positions for {positions} tokens, and data.length={length} is more; "
            "lower data.length"
        )


def load_tokenizer(export: str) -> PreTrainedTokenizerBase:
    """The tokenizer of an export. Raises ExportError when the folder is not a usable export."""
    config = load_config(export)
    try:
        # The names are saved with the tokenizer. Without them transformers 5 gives no segments, and
        # a pair head scores in another program what it does not score here.
        tokenizer = AutoTokenizer.from_pretrained(
            export, model_input_names=inputs_of(config), trust_remote_code=False
        )
    except Exception as error:  # tokenizers have errors of their own
        if "sentencepiece" in str(error):  # which would not help: nothing names the tokenizer
            raise ExportError(
                f"{export}: it has no tokenizer.json, and no tokenizer_class in its "
                f"tokenizer_config.json; `python -m jobs.convert --input {export} --output FOLDER` "
                "makes a folder with a tokenizer of its vocab.txt"
            ) from error
        raise ExportError(f"{export}: {error}") from error
    missing = [
        name for name in ("cls_token", "sep_token", "pad_token") if not getattr(tokenizer, name)
    ]
    if missing or not tokenizer.is_fast:
        raise ExportError(f"{export}: its tokenizer has no {', '.join(missing) or 'fast form'}")
    if set(tokenizer.get_vocab().values()) <= set(tokenizer.all_special_ids):
        raise ExportError(
            f"{export}: its tokenizer holds special tokens only; the folder needs the "
            "tokenizer.json or vocab.txt of its network"
        )
    if len(tokenizer) > config.vocab_size:
        raise ExportError(
            f"{export}: its tokenizer has {len(tokenizer)} entries, but vocab_size in its "
            f"config.json is {config.vocab_size}"
        )
    return tokenizer


def build(
    task: Task, export: str, labels: Sequence[str], dropout: float, from_scratch: bool
) -> PreTrainedModel:
    """The task's network with the export's weights and a new head, or with random weights.

    Raises ExportError when the folder lacks weights of the encoder.
    """
    # Without labels: start and end of a span. The export may be a head with labels of its own.
    labels = labels or ("LABEL_0", "LABEL_1")
    config = AutoConfig.from_pretrained(
        export,
        trust_remote_code=False,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
        problem_type=task.problem_type,
    )
    # Networks name their dropouts differently, and refuse the names of others.
    for name in [each for each in vars(config) if "dropout" in each]:
        setattr(config, name, dropout)
    if from_scratch:
        return task.network.from_config(config).float()
    # A head for other labels is made anew.
    options = {"config": config, "dtype": torch.float32, "ignore_mismatched_sizes": True}
    network, report = load(task, export, **options)
    body = f"{network.base_model_prefix}."
    lost = [key for key in report["missing_keys"] if key.startswith(body) and ".pooler." not in key]
    if lost:
        raise ExportError(f"{export}: {len(lost)} weights are missing, first {sorted(lost)[0]}")
    other = sorted(key for key, *_ in report["mismatched_keys"] if key.startswith(body))
    if other:
        raise ExportError(
            f"{export}: {len(other)} weights do not have the shape that config.json gives, first "
            f"{other[0]}"
        )
    return network


def load(task: Task, folder: str, **options: Any) -> tuple[Any, dict[str, Any]]:
    """The task's network with the weights of a folder, and which weights do not fit.

    Raises ExportError when the folder cannot be read.
    """
    try:
        with quiet():
            return task.network.from_pretrained(
                folder,
                trust_remote_code=False,  # not even after a question on the terminal
                output_loading_info=True,
                **options,
            )
    except Exception as error:  # safetensors, pickles and configurations have classes of their own
        raise ExportError(f"{folder}: its network cannot be loaded: {error}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Turn off transformers' progress bars and its table of missing weights.

    The weights of a new head are always missing.
    """
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
