"""NEZHA for transformers 5. Importing this package registers it with the Auto classes."""

import transformers

from .configuration_nezha import NezhaConfig
from .heads_nezha import (
    NezhaForMaskedLM,
    NezhaForMultipleChoice,
    NezhaForNextSentencePrediction,
    NezhaForPreTraining,
    NezhaForPreTrainingOutput,
    NezhaForQuestionAnswering,
    NezhaForSequenceClassification,
    NezhaForTokenClassification,
)
from .modeling_nezha import NezhaModel, NezhaPreTrainedModel

AUTO_CLASSES = {
    transformers.AutoModel: NezhaModel,
    transformers.AutoModelForPreTraining: NezhaForPreTraining,
    transformers.AutoModelForMaskedLM: NezhaForMaskedLM,
    transformers.AutoModelForNextSentencePrediction: NezhaForNextSentencePrediction,
    transformers.AutoModelForSequenceClassification: NezhaForSequenceClassification,
    transformers.AutoModelForMultipleChoice: NezhaForMultipleChoice,
    transformers.AutoModelForTokenClassification: NezhaForTokenClassification,
    transformers.AutoModelForQuestionAnswering: NezhaForQuestionAnswering,
}

transformers.AutoConfig.register("nezha", NezhaConfig, exist_ok=True)
for _auto_class, _model_class in AUTO_CLASSES.items():
    _auto_class.register(NezhaConfig, _model_class, exist_ok=True)

__all__ = [
    "AUTO_CLASSES",
    "NezhaConfig",
    "NezhaForMaskedLM",
    "NezhaForMultipleChoice",
    "NezhaForNextSentencePrediction",
    "NezhaForPreTraining",
    "NezhaForPreTrainingOutput",
    "NezhaForQuestionAnswering",
    "NezhaForSequenceClassification",
    "NezhaForTokenClassification",
    "NezhaModel",
    "NezhaPreTrainedModel",
]
