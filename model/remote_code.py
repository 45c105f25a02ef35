"""Make a saved model self-contained: its folder carries the code that `auto_map` names.

A reader then needs torch and transformers only, and `trust_remote_code=True`.
"""

import shutil
from pathlib import Path

from .configuration_nezha import NezhaConfig

CODE_FILES = (
    "add_norm.py",
    "configuration_nezha.py",
    "cpu_add_norm.py",
    "cpu_attention.py",
    "cpu_dropout.py",
    "cpu_feed_forward.py",
    "cpu_fused_attention.py",
    "cpu_kernels.py",
    "cpu_tiles.py",
    "dropout_rates.py",
    "heads_nezha.py",
    "layers_nezha.py",
    "modeling_nezha.py",
    "observed.py",
    "plain_linear.py",
    "relative_attention.py",
    "table_factors.py",
    "triton_add_norm.py",
    "triton_attention.py",
    "triton_backward.py",
    "triton_dropout.py",
    "triton_forward.py",
    "triton_tiles.py",
)
"""Nothing in them may need another file of this repository."""

AUTO_MAP = {
    "AutoConfig": "configuration_nezha.NezhaConfig",
    "AutoModel": "modeling_nezha.NezhaModel",
    "AutoModelForPreTraining": "heads_nezha.NezhaForPreTraining",
    "AutoModelForMaskedLM": "heads_nezha.NezhaForMaskedLM",
    "AutoModelForNextSentencePrediction": "heads_nezha.NezhaForNextSentencePrediction",
    "AutoModelForSequenceClassification": "heads_nezha.NezhaForSequenceClassification",
    "AutoModelForMultipleChoice": "heads_nezha.NezhaForMultipleChoice",
    "AutoModelForTokenClassification": "heads_nezha.NezhaForTokenClassification",
    "AutoModelForQuestionAnswering": "heads_nezha.NezhaForQuestionAnswering",
}


def write_remote_code(folder: Path | str, config: NezhaConfig) -> None:
    """Copy the code into `folder` and write `config` there with the entries of all classes.

    Call it after `save_pretrained`, which writes a config.json with at most one entry.
    """
    for name in CODE_FILES:
        shutil.copyfile(Path(__file__).with_name(name), Path(folder) / name)
    config.auto_map = dict(AUTO_MAP)
    config.save_pretrained(folder)
