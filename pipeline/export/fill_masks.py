"""What an export answers in place of masks: held-out samples, and a sentence of one's own."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import AutoTokenizer

from model import NezhaForPreTraining
from pipeline.feed.batches import open_folder
from pipeline.feed.collate import collate
from pipeline.labels import IGNORED


class Token(NamedTuple):
    """A token of a sample, as text."""

    text: str
    """What stands there in truth."""
    answer: str | None
    """What the network answers, where the token was masked."""


def held_out_samples(export: Path, heldout: str, number: int, length: int) -> list[list[Token]]:
    """Samples of a held-out folder with its own masks, chosen at even distances.

    Only the first `length` tokens of a sample are returned; the network sees all of it.
    """
    reader = open_folder(heldout)
    numbers = np.linspace(0, len(reader), min(number, len(reader)), endpoint=False).astype(np.int64)
    rows = reader.rows(numbers)
    pad_id = reader.manifest.special_ids["[PAD]"]
    batch = collate(rows, rows.masks, numbers, pad_id, 0, len(numbers))
    network, tokenizer = _load(export)
    with torch.no_grad():
        logits = network(
            input_ids=torch.from_numpy(batch.input_ids),
            token_type_ids=torch.from_numpy(batch.token_type_ids),
            attention_mask=torch.from_numpy(batch.attention_mask),
        ).prediction_logits
    answers, masked = logits.argmax(-1).numpy(), batch.labels != IGNORED
    truth = np.where(masked, batch.labels, batch.input_ids)

    def text(token: int) -> str:
        return str(tokenizer.convert_ids_to_tokens(int(token)))

    return [
        [
            Token(text(truth[row, at]), text(answers[row, at]) if masked[row, at] else None)
            for at in range(min(length, int(rows.lengths[row])))
        ]
        for row in range(len(numbers))
    ]


def best_answers(export: Path, sentence: str, number: int) -> list[tuple[str, float]]:
    """The most probable tokens for the one [MASK] of a sentence, with their probabilities."""
    network, tokenizer = _load(export)
    inputs = tokenizer(sentence, return_tensors="pt")
    place = int((inputs["input_ids"][0] == tokenizer.mask_token_id).nonzero())
    with torch.no_grad():
        best = network(**inputs).prediction_logits[0, place].softmax(-1).topk(number)
    tokens = tokenizer.convert_ids_to_tokens(best.indices.tolist())
    return list(zip(tokens, best.values.tolist(), strict=True))


def _load(export: Path) -> tuple[NezhaForPreTraining, Any]:
    return NezhaForPreTraining.from_pretrained(export).eval(), AutoTokenizer.from_pretrained(export)
