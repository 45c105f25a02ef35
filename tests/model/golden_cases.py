"""The cases that are run in transformers 4.40.2 and in this repository; numpy only.

Weights and inputs are drawn from numpy generators with fixed seeds, so both sides make the same
ones and only the outputs need storing.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

VOCABULARY = 61
CONFIG: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "max_position_embeddings": 64,
    "max_relative_position": 6,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "classifier_dropout": 0.0,
}
DECODER = {"is_decoder": True}
CROSS = {"is_decoder": True, "add_cross_attention": True}


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The float32 values of the parameter `name`: large enough that attention is far from flat."""
    draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    centre = 1.0 if name.endswith("LayerNorm.weight") else 0.0
    return (centre + 0.15 * draw).astype(np.float32)


class Draw:
    """Inputs of one case, drawn in the order in which they are asked for."""

    def __init__(self, name: str) -> None:
        self.random = np.random.default_rng(zlib.crc32(name.encode()))

    def ids(self, *shape: int, below: int = VOCABULARY) -> np.ndarray:
        return self.random.integers(0, below, shape)

    def bits(self, *shape: int) -> np.ndarray:
        """Ones and zeros; the first is a one in every row."""
        drawn = self.random.integers(0, 2, shape)
        drawn[..., 0] = 1
        return drawn

    def floats(self, *shape: int) -> np.ndarray:
        return self.random.standard_normal(shape).astype(np.float32)

    def fractions(self, *shape: int) -> np.ndarray:
        return self.random.random(shape).astype(np.float32)

    def labels(self, *shape: int, below: int = VOCABULARY) -> np.ndarray:
        """Class numbers, two in three of them -100."""
        return np.where(self.random.random(shape) < 1 / 3, self.ids(*shape, below=below), -100)


@dataclass(frozen=True)
class Case:
    """One forward call: which class, how it is configured, what goes in."""

    name: str
    head: str
    inputs: Callable[[Draw], dict[str, Any]]
    config: dict[str, Any] = field(default_factory=dict)

    def arguments(self) -> dict[str, Any]:
        return self.inputs(Draw(self.name))


def plain(*shape: int) -> Callable[[Draw], dict[str, Any]]:
    return lambda d: {"input_ids": d.ids(*shape)}


def _padded(draw: Draw, batch: int, length: int) -> dict[str, Any]:
    mask = np.ones((batch, length), np.int64)
    mask[1:, length // 2 :] = 0
    return {
        "input_ids": draw.ids(batch, length),
        "attention_mask": mask,
        "token_type_ids": draw.bits(batch, length),
    }


def _fully_masked(draw: Draw, dims: int) -> dict[str, Any]:
    mask = draw.bits(2, 9) if dims == 2 else draw.bits(2, 9, 9)
    mask[1] = 0
    return {"input_ids": draw.ids(2, 9), "attention_mask": mask}


def _everything(draw: Draw) -> dict[str, Any]:
    return _padded(draw, 2, 11) | {
        "output_attentions": True,
        "output_hidden_states": True,
        "head_mask": np.array([[1, 0.5, 0, 1], [0, 1, 1, 2]], np.float32),
    }


def _cross(draw: Draw, length: int = 9) -> dict[str, Any]:
    return {
        "input_ids": draw.ids(2, length),
        "encoder_hidden_states": draw.floats(2, length, CONFIG["hidden_size"]),
        "output_attentions": True,
        "output_hidden_states": True,
    }


def _pretraining(draw: Draw) -> dict[str, Any]:
    return _padded(draw, 3, 14) | {
        "labels": draw.labels(3, 14),
        "next_sentence_label": draw.ids(3, below=2),
    }


def _choices(draw: Draw) -> dict[str, Any]:
    return {
        "input_ids": draw.ids(2, 3, 8),
        "attention_mask": draw.bits(2, 3, 8),
        "token_type_ids": draw.bits(2, 3, 8),
        "labels": np.array([2, 0]),
    }


def _answers(starts: list, ends: list) -> Callable[[Draw], dict[str, Any]]:
    return lambda d: {
        "input_ids": d.ids(3, 12),
        "start_positions": np.array(starts),
        "end_positions": np.array(ends),
    }


BACKBONE = [
    Case("short", "NezhaModel", plain(2, 5)),
    Case("one_token", "NezhaModel", plain(1, 1)),
    Case("full_length", "NezhaModel", plain(1, 64)),
    Case("clip_wider_than_text", "NezhaModel", plain(2, 9), {"max_relative_position": 40}),
    Case("clip_of_one", "NezhaModel", plain(2, 9), {"max_relative_position": 1}),
    Case("one_head", "NezhaModel", plain(2, 9), {"num_attention_heads": 1}),
    Case("head_size_two", "NezhaModel", plain(2, 9), {"num_attention_heads": 16}),
    Case("relu", "NezhaModel", plain(2, 9), {"hidden_act": "relu"}),
    Case("padded", "NezhaModel", lambda d: _padded(d, 3, 20)),
    Case(
        "mask_3d",
        "NezhaModel",
        lambda d: {"input_ids": d.ids(2, 9), "attention_mask": d.bits(2, 9, 9)},
    ),
    Case(
        "mask_float",
        "NezhaModel",
        lambda d: {"input_ids": d.ids(2, 9), "attention_mask": d.bits(2, 9).astype(np.float32)},
    ),
    Case(
        "mask_fractions",
        "NezhaModel",
        lambda d: {"input_ids": d.ids(2, 9), "attention_mask": d.fractions(2, 9)},
    ),
    Case("fully_masked_2d", "NezhaModel", lambda d: _fully_masked(d, 2)),
    Case("fully_masked_3d", "NezhaModel", lambda d: _fully_masked(d, 3)),
    Case("embeddings", "NezhaModel", lambda d: {"inputs_embeds": d.floats(2, 9, 32)}),
    Case("everything", "NezhaModel", _everything),
    Case("everything_tuple", "NezhaModel", lambda d: _everything(d) | {"return_dict": False}),
    Case(
        "head_mask_1d",
        "NezhaModel",
        lambda d: _padded(d, 2, 9) | {"head_mask": np.array([1, 0, 0.5, 1], np.float32)},
    ),
    Case("chunked", "NezhaModel", plain(2, 8), {"chunk_size_feed_forward": 4}),
]

DECODING = [
    Case("decoder", "NezhaModel", lambda d: plain(2, 17)(d) | {"output_attentions": True}, DECODER),
    Case("decoder_cache", "NezhaModel", lambda d: plain(2, 7)(d) | {"use_cache": True}, DECODER),
    Case("decoder_padded", "NezhaModel", lambda d: _padded(d, 2, 9), DECODER),
    Case("decoder_masked", "NezhaModel", lambda d: _fully_masked(d, 2), DECODER),
    Case("decoder_3d", "NezhaModel", lambda d: _fully_masked(d, 3), DECODER),
    Case(
        "decoder_float",
        "NezhaModel",
        lambda d: plain(2, 9)(d) | {"attention_mask": d.fractions(2, 9)},
        DECODER,
    ),
    Case("cross", "NezhaModel", _cross, CROSS),
    Case("cross_tuple", "NezhaModel", lambda d: _cross(d) | {"return_dict": False}, CROSS),
    Case(
        "cross_masked",
        "NezhaModel",
        lambda d: _cross(d) | {"encoder_attention_mask": d.bits(2, 9)},
        CROSS,
    ),
    Case(
        "cross_3d",
        "NezhaModel",
        lambda d: _cross(d) | {"encoder_attention_mask": d.bits(2, 9, 9)},
        CROSS,
    ),
    Case(
        "cross_head_mask",
        "NezhaModel",
        lambda d: _cross(d) | {"head_mask": np.array([1, 0, 0.5, 1], np.float32)},
        CROSS,
    ),
    Case("cross_absent", "NezhaModel", plain(2, 9), CROSS),
    Case("encoder_ignores_encoder_states", "NezhaModel", _cross),
    Case(
        "masked_lm_decoder_tuple",
        "NezhaForMaskedLM",
        lambda d: _cross(d) | {"return_dict": False},
        CROSS,
    ),
    Case(
        "masked_lm_decoder",
        "NezhaForMaskedLM",
        lambda d: _cross(d) | {"labels": d.labels(2, 9)},
        CROSS,
    ),
]

HEADS = [
    Case("pretraining", "NezhaForPreTraining", _pretraining),
    Case(
        "pretraining_tuple",
        "NezhaForPreTraining",
        lambda d: _pretraining(d) | {"return_dict": False},
    ),
    Case(
        "pretraining_words_only",
        "NezhaForPreTraining",
        lambda d: _padded(d, 2, 9) | {"labels": d.labels(2, 9)},
    ),
    Case(
        "pretraining_sentences_only",
        "NezhaForPreTraining",
        lambda d: _padded(d, 2, 9) | {"next_sentence_label": np.array([0, 1])},
    ),
    Case(
        "pretraining_nothing_masked",
        "NezhaForPreTraining",
        lambda d: (
            plain(2, 9)(d)
            | {"labels": np.full((2, 9), -100), "next_sentence_label": np.array([0, 1])}
        ),
    ),
    Case("untied", "NezhaForPreTraining", _pretraining, {"tie_word_embeddings": False}),
    Case("masked_lm", "NezhaForMaskedLM", lambda d: _everything(d) | {"labels": d.labels(2, 11)}),
    Case(
        "masked_lm_tuple",
        "NezhaForMaskedLM",
        lambda d: _everything(d) | {"labels": d.labels(2, 11), "return_dict": False},
    ),
    Case(
        "next_sentence",
        "NezhaForNextSentencePrediction",
        lambda d: _padded(d, 3, 9) | {"labels": np.array([1, 0, 1])},
    ),
    Case(
        "next_sentence_label",
        "NezhaForNextSentencePrediction",
        lambda d: plain(2, 9)(d) | {"next_sentence_label": np.array([1, 0])},
    ),
    Case(
        "one_label",
        "NezhaForSequenceClassification",
        lambda d: _padded(d, 3, 9) | {"labels": np.array([2, 0, 1])},
        {"num_labels": 3},
    ),
    Case(
        "many_labels",
        "NezhaForSequenceClassification",
        lambda d: plain(3, 9)(d) | {"labels": d.fractions(3, 4)},
        {"num_labels": 4},
    ),
    Case(
        "regression",
        "NezhaForSequenceClassification",
        lambda d: plain(3, 9)(d) | {"labels": d.floats(3)},
        {"num_labels": 1},
    ),
    Case(
        "regression_column",
        "NezhaForSequenceClassification",
        lambda d: plain(3, 9)(d) | {"labels": d.floats(3, 1)},
        {"num_labels": 1},
    ),
    Case(
        "regression_wide",
        "NezhaForSequenceClassification",
        lambda d: plain(3, 9)(d) | {"labels": d.floats(3, 2)},
        {"num_labels": 2, "problem_type": "regression"},
    ),
    Case(
        "sequence_tuple",
        "NezhaForSequenceClassification",
        lambda d: _everything(d) | {"return_dict": False},
    ),
    Case("choices", "NezhaForMultipleChoice", _choices),
    Case("choices_tuple", "NezhaForMultipleChoice", lambda d: _choices(d) | {"return_dict": False}),
    Case(
        "choices_embeddings",
        "NezhaForMultipleChoice",
        lambda d: {"inputs_embeds": d.floats(2, 3, 7, 32)},
    ),
    Case(
        "tokens",
        "NezhaForTokenClassification",
        lambda d: _padded(d, 3, 9) | {"labels": d.labels(3, 9, below=5)},
        {"num_labels": 5},
    ),
    Case(
        "tokens_tuple",
        "NezhaForTokenClassification",
        lambda d: plain(2, 9)(d) | {"labels": d.labels(2, 9, below=2), "return_dict": False},
    ),
    Case("answer", "NezhaForQuestionAnswering", _answers([0, 4, 11], [3, 7, 11])),
    Case("answer_outside", "NezhaForQuestionAnswering", _answers([0, 12, 99], [40, -1, 5])),
    Case("answer_column", "NezhaForQuestionAnswering", _answers([[1], [2], [3]], [[4], [5], [6]])),
    Case(
        "answer_start_only",
        "NezhaForQuestionAnswering",
        lambda d: plain(3, 12)(d) | {"start_positions": np.array([1, 2, 3])},
    ),
    Case(
        "answer_tuple",
        "NezhaForQuestionAnswering",
        lambda d: _answers([0, 4, 11], [3, 7, 11])(d) | {"return_dict": False},
    ),
]

CASES = BACKBONE + DECODING + HEADS
"""Forward passes of which every output is compared."""

GRADIENTS = [
    "padded",
    "cross",
    "decoder_padded",
    "pretraining",
    "choices",
    "answer_outside",
    "many_labels",
]
"""Cases of which the gradient of every parameter is compared."""

TRAJECTORY = [Case(f"step_{step}", "NezhaForPreTraining", _pretraining) for step in range(10)]
"""Ten batches, one AdamW step (learning rate 1e-3) each, on the weights that `weight` draws."""
