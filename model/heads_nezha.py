"""The seven heads of Nezha, with the semantics of transformers 4.40.2.

The arguments that all heads share are described in `modeling_nezha.py`. A loss is the mean over the
labels other than -100, or with num_items_in_batch their sum divided by it: then the gradients of
the parts of a batch add up to that of the whole batch. With return_dict=False the output is
(loss if any, logits, …).
"""

import warnings
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from transformers.loss.loss_utils import fixed_cross_entropy
from transformers.modeling_outputs import (
    MaskedLMOutput,
    MultipleChoiceModelOutput,
    NextSentencePredictorOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.models.bert.modeling_bert import BertForPreTrainingOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple

from .configuration_nezha import NezhaConfig
from .layers_nezha import NezhaPreTrainingHeads
from .modeling_nezha import NezhaModel, NezhaPreTrainedModel


@dataclass
class NezhaForPreTrainingOutput(BertForPreTrainingOutput):
    """loss (both labels given), prediction_logits [B, S, V], seq_relationship_logits [B, 2]."""


class _WithLMHead(NezhaPreTrainedModel):
    """Ties the LM head to the word embeddings."""

    _pairs: bool
    """Whether there is also a next-sentence head"""
    _tied_weights_keys = {  # noqa: RUF012
        "cls.predictions.decoder.weight": "nezha.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }

    def __init__(self, config: NezhaConfig) -> None:
        super().__init__(config)
        self.nezha = NezhaModel(config, add_pooling_layer=self._pairs)
        self.cls = NezhaPreTrainingHeads(config, predictions=True, seq_relationship=self._pairs)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        return self.cls.predictions.decoder

    def set_output_embeddings(self, new_embeddings: Any) -> None:
        self.cls.predictions.decoder = new_embeddings
        self.cls.predictions.bias = new_embeddings.bias


class NezhaForPreTraining(_WithLMHead):
    """Masked words and next sentence."""

    _pairs = True

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        next_sentence_label: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | NezhaForPreTrainingOutput:
        """labels [B, S] and next_sentence_label [B] (0 follows, 1 random) → the sum of both losses.

        There is no loss unless both are given. num_items_in_batch counts words and not pairs: a
        pair then has the weight of its words, so that the loss does not depend on how a batch is
        divided.
        """
        inputs = input_ids, attention_mask, token_type_ids, head_mask, inputs_embeds
        outputs = self.nezha(*inputs, return_dict=True, **kwargs)
        words = self.cls.predictions(outputs.last_hidden_state)
        pairs = self.cls.seq_relationship(outputs.pooler_output)
        loss = None
        if labels is not None and next_sentence_label is not None:
            items = kwargs.get("num_items_in_batch")
            loss = fixed_cross_entropy(words.flatten(0, 1), labels.view(-1), items)
            if items is None:
                loss = loss + fixed_cross_entropy(pairs, next_sentence_label.view(-1))
            else:
                losses = F.cross_entropy(pairs, next_sentence_label.view(-1), reduction="none")
                loss = loss + (losses * labels.ne(-100).sum(1)).sum() / items
        return NezhaForPreTrainingOutput(
            loss, words, pairs, outputs.hidden_states, outputs.attentions
        )


class NezhaForMaskedLM(_WithLMHead):
    """Masked words."""

    _pairs = False

    def __init__(self, config: NezhaConfig) -> None:
        super().__init__(config)
        if config.is_decoder:
            warnings.warn(
                "NezhaForMaskedLM is meant for is_decoder=False, bidirectional self-attention",
                stacklevel=2,
            )

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | MaskedLMOutput:
        """labels int64 [B, S]; logits [B, S, V]."""
        inputs = input_ids, attention_mask, token_type_ids, head_mask, inputs_embeds
        crossed = encoder_hidden_states, encoder_attention_mask
        outputs = self.nezha(*inputs, *crossed, return_dict=True, **kwargs)
        logits = self.cls.predictions(outputs.last_hidden_state)
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=logits.shape[-1], **kwargs
            )
        if not (self.config.return_dict if return_dict is None else return_dict):
            # In 4.40.2 a decoder's tuple holds its cache and cross-attentions as well.
            return *(() if loss is None else (loss,)), logits, *outputs.to_tuple()[1:]
        return MaskedLMOutput(loss, logits, outputs.hidden_states, outputs.attentions)


class NezhaForNextSentencePrediction(NezhaPreTrainedModel):
    """Does the second sentence follow the first?"""

    def __init__(self, config: NezhaConfig) -> None:
        super().__init__(config)
        self.nezha = NezhaModel(config)
        self.cls = NezhaPreTrainingHeads(config, predictions=False, seq_relationship=True)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> tuple | NextSentencePredictorOutput:
        """labels int64 [B], 0 follows, 1 random; logits [B, 2].

        `next_sentence_label` is the old name of labels.
        """
        if (old := kwargs.pop("next_sentence_label", None)) is not None:
            warnings.warn("next_sentence_label is now called labels", FutureWarning, stacklevel=3)
            labels = old
        inputs = input_ids, attention_mask, token_type_ids, head_mask, inputs_embeds
        outputs = self.nezha(*inputs, return_dict=True, **kwargs)
        logits = self.cls.seq_relationship(outputs.pooler_output)
        loss = None
        if labels is not None:
            loss = fixed_cross_entropy(logits, labels.view(-1), kwargs.get("num_items_in_batch"))
        return NextSentencePredictorOutput(loss, logits, outputs.hidden_states, outputs.attentions)


class _Classifier(NezhaPreTrainedModel):
    """Scores of classes, from the pooled vector of a sequence or from the vector of each token."""

    _pooled = True
    _scores: int | None = None
    """Number of scores; None means config.num_labels"""
    _output: type[SequenceClassifierOutput | TokenClassifierOutput | MultipleChoiceModelOutput]

    def __init__(self, config: NezhaConfig) -> None:
        super().__init__(config)
        self.nezha = NezhaModel(config, add_pooling_layer=self._pooled)
        rate = config.classifier_dropout
        self.dropout = nn.Dropout(config.hidden_dropout_prob if rate is None else rate)
        self.num_labels = self._scores or config.num_labels or 0
        self.classifier = nn.Linear(config.hidden_size, self.num_labels)
        self.post_init()

    def _rows(self, x: Tensor | None) -> Tensor | None:
        """An input, with a row for each sequence"""
        return x

    def _logits(self, outputs: Any, batch: int) -> Tensor:
        states = outputs.pooler_output if self._pooled else outputs.last_hidden_state
        return self.classifier(self.dropout(states))

    def _loss(self, logits: Tensor, labels: Tensor, **kwargs: Any) -> Tensor:
        return fixed_cross_entropy(logits, labels.view(-1), kwargs.get("num_items_in_batch"))

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | SequenceClassifierOutput | TokenClassifierOutput | MultipleChoiceModelOutput:
        """The scores, and their loss if there are labels; the class tells the shapes of both."""
        given = input_ids, attention_mask, token_type_ids, inputs_embeds
        ids, mask, types, embeds = map(self._rows, given)
        outputs = self.nezha(ids, mask, types, head_mask, embeds, return_dict=True, **kwargs)
        batch = next(x.shape[0] for x in given if x is not None)
        logits = self._logits(outputs, batch)
        loss = None if labels is None else self._loss(logits, labels, **kwargs)
        return self._output(loss, logits, outputs.hidden_states, outputs.attentions)


class NezhaForSequenceClassification(_Classifier):
    """A label, several labels or numbers for a whole sequence: logits [B, num_labels].

    labels: int64 [B], float [B] (regression) or float [B, num_labels] (many at once). The first
    ones seen set config.problem_type where the user left it open.
    """

    _output = SequenceClassifierOutput

    def _loss(self, logits: Tensor, labels: Tensor, **kwargs: Any) -> Tensor:
        loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config, **kwargs)
        items = kwargs.get("num_items_in_batch")
        if items is None or self.config.problem_type == "single_label_classification":
            return loss
        # For other problem types transformers always returns the mean.
        return loss * labels.numel() / items


class NezhaForTokenClassification(_Classifier):
    """A label for every token: labels int64 [B, S], logits [B, S, num_labels]."""

    _pooled = False
    _output = TokenClassifierOutput

    def _loss(self, logits: Tensor, labels: Tensor, **kwargs: Any) -> Tensor:
        return self.loss_function(logits, labels, self.config, **kwargs)


class NezhaForMultipleChoice(_Classifier):
    """Which of C sequences? Inputs [B, C, S], labels int64 [B], logits [B, C]."""

    _scores = 1
    _output = MultipleChoiceModelOutput

    def _rows(self, x: Tensor | None) -> Tensor | None:
        return None if x is None else x.flatten(0, 1)

    def _logits(self, outputs: Any, batch: int) -> Tensor:
        return super()._logits(outputs, batch).view(batch, -1)


class NezhaForQuestionAnswering(NezhaPreTrainedModel):
    """Where an answer starts and ends."""

    def __init__(self, config: NezhaConfig) -> None:
        super().__init__(config)
        if config.num_labels != 2:
            raise ValueError(
                f"num_labels is {config.num_labels}, but an answer has a start and an end: pass "
                "num_labels=2 to load a folder of another task"
            )
        self.nezha = NezhaModel(config, add_pooling_layer=False)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | QuestionAnsweringModelOutput:
        """start_positions, end_positions int64 [B] or [B, 1]; from S upwards they are ignored."""
        inputs = input_ids, attention_mask, token_type_ids, head_mask, inputs_embeds
        outputs = self.nezha(*inputs, return_dict=True, **kwargs)
        starts, ends = self.qa_outputs(outputs.last_hidden_state).split(1, dim=-1)
        starts, ends = starts.squeeze(-1).contiguous(), ends.squeeze(-1).contiguous()
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = self.loss_function(starts, ends, start_positions, end_positions, **kwargs)
        return QuestionAnsweringModelOutput(
            loss, starts, ends, outputs.hidden_states, outputs.attentions
        )
