"""transformers' own test-suite for models, run on Nezha.

The suite is not installed with transformers; its source package on PyPI carries it. `make test`
downloads and unpacks that and sets TRANSFORMERS_SOURCE to its folder.
"""

import os
import sys
import types
import unittest
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import model as nezha

SOURCE = Path(os.environ.get("TRANSFORMERS_SOURCE", ""))
if not (SOURCE / "tests" / "test_modeling_common.py").is_file():
    pytest.skip(
        "TRANSFORMERS_SOURCE is not the unpacked source package of transformers: see Makefile",
        allow_module_level=True,
    )
pytest.importorskip("parameterized")


def _suite(source: Path) -> Any:
    """The module tests/test_modeling_common.py of the source package.

    The package does not contain the generation and exporter suites that this module imports. Empty
    ones take their places: Nezha generates no text, and exports have tests of their own here.
    """
    package = types.ModuleType("transformers_suite")
    package.__path__ = [str(source / "tests")]
    sys.modules["transformers_suite"] = package
    for path, name in [
        ("exporters.test_export", "ExportTesterMixin"),
        ("generation.test_utils", "GenerationTesterMixin"),
    ]:
        stand_in: Any = types.ModuleType(f"transformers_suite.{path}")
        setattr(stand_in, name, type(name, (), {}))
        parent = path.split(".")[0]
        sys.modules[f"transformers_suite.{parent}"] = types.ModuleType(parent)
        sys.modules[stand_in.__name__] = stand_in
    import transformers_suite.test_modeling_common as suite

    return suite


suite = _suite(SOURCE)
# The suite asks this table which classes have no loss.
suite.MODEL_MAPPING_NAMES["nezha"] = "NezhaModel"


class NezhaTester:
    """Small configurations and inputs, in the form that the suite asks for."""

    batch_size, seq_length, is_training = 5, 7, True
    hidden_size, num_hidden_layers, num_attention_heads = 32, 2, 4
    vocab_size, num_labels = 99, 3

    def __init__(self, parent: unittest.TestCase) -> None:
        self.parent = parent

    def get_config(self) -> nezha.NezhaConfig:
        return nezha.NezhaConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            intermediate_size=37,
            max_relative_position=4,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[nezha.NezhaConfig, dict]:
        shape = (self.batch_size, self.seq_length)
        return self.get_config(), {
            "input_ids": suite.ids_tensor(shape, self.vocab_size),
            "token_type_ids": suite.ids_tensor(shape, 2),
            "attention_mask": suite.random_attention_mask(shape),
        }


class NezhaSuite(suite.ModelTesterMixin, unittest.TestCase):
    """ModelTesterMixin brings the tests."""

    all_model_classes = tuple(nezha.AUTO_CLASSES.values())
    test_resize_embeddings: ClassVar[bool] = True

    def setUp(self) -> None:
        self.model_tester = NezhaTester(self)

    def _prepare_for_class(self, inputs: dict, model_class: type, return_labels: bool = False):
        """Inputs of a class; the suite itself knows the labels of transformers' classes alone."""
        inputs = dict(inputs)
        batch, length = self.model_tester.batch_size, self.model_tester.seq_length
        if model_class is nezha.NezhaForMultipleChoice:
            inputs = {
                key: value.unsqueeze(1).expand(-1, 4, -1).contiguous()
                if isinstance(value, torch.Tensor) and value.dim() > 1
                else value
                for key, value in inputs.items()
            }
        if not return_labels or model_class is nezha.NezhaModel:
            return inputs
        per_token = torch.zeros(batch, length, dtype=torch.long)
        per_text = torch.zeros(batch, dtype=torch.long)
        labels = {
            nezha.NezhaForPreTraining: {"labels": per_token, "next_sentence_label": per_text},
            nezha.NezhaForMaskedLM: {"labels": per_token},
            nezha.NezhaForTokenClassification: {"labels": per_token},
            nezha.NezhaForQuestionAnswering: {
                "start_positions": per_text,
                "end_positions": per_text,
            },
        }
        return inputs | labels.get(model_class, {"labels": per_text})
