"""The export and the task data of the tests of fine-tuning."""

from tests.pipeline.finetuning.conftest import data, export  # noqa: F401
