"""The seven heads of Nezha, with the semantics of transformers 4.40.2.

The arguments that all share are described in `modeling_nezha.py`. A loss is the mean over what
counts: labels of -100 don't. With return_dict=False the output is (loss if any, logits, …).
"""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import (
    MaskedLMOutput,
    MultipleChoiceModelOutput,
    NextSentencePredictorOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.utils import ModelOutput

from .configuration_nezha import NezhaConfig
from .layers_nezha import NezhaPreTrainingHeads
from .modeling_nezha import NezhaModel, NezhaPreTrainedModel, given


@dataclass
class NezhaForPreTrainingOutput(ModelOutput):
    """loss (both labels given), prediction_logits [B, S, V], seq_relationship_logits [B, 2]."""

    loss: Tensor | None = None
    prediction_logits: Tensor | None = None
    seq_relationship_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


def head_output(
    output_class: type[ModelOutput],
    return_dict: bool,
    loss: Tensor | None,
    logits: dict[str, Tensor],
    backbone: Any,
) -> Any:
    """A head's result; `backbone` is NezhaModel's output, a tuple where return_dict is False."""
    if return_dict:
        return output_class(
            loss=loss,
            **logits,
            hidden_states=backbone.hidden_states,
            attentions=backbone.attentions,
        )
    found = (*logits.values(), *backbone[2:])
    return found if loss is None else (loss, *found)


def task_dropout(config: NezhaConfig) -> nn.Dropout:
    """The dropout in front of a task's classifier."""
    rate = config.classifier_dropout
    return nn.Dropout(config.hidden_dropout_prob if rate is None else rate)


class _WithLMHead(NezhaPreTrainedModel):
    """Ties the LM head to the word embeddings."""

    cls: NezhaPreTrainingHeads
    _tied_weights_keys = {  # noqa: RUF012
        "cls.predictions.decoder.weight": "nezha.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }

    def get_output_embeddings(self) -> nn.Linear:
        return self.cls.predictions.decoder

    def set_output_embeddings(self, new_embeddings: Any) -> None:
        self.cls.predictions.decoder = new_embeddings
        self.cls.predictions.bias = new_embeddings.bias


class NezhaForPreTraining(_WithLMHead):
    """Masked words and next sentence."""

    def __init__(self, config: NezhaConfig) -> None:
        super().__init__(config)
        self.nezha = NezhaModel(config)
        self.cls = NezhaPreTrainingHeads(config, predictions=True, seq_relationship=True)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        next_sentence_label: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> tuple | NezhaForPreTrainingOutput:
        """labels [B, S] and next_sentence_label [B] (0 follows, 1 random) → the sum of both losses.

        There is no loss unless both are given.
        """
        return_dict = given(return_dict, self.config.return_dict)
        outputs = self.nezha(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=return_dict,
        )
        logits = {
            "prediction_logits": self.cls.predictions(outputs[0]),
            "seq_relationship_logits": self.cls.seq_relationship(outputs[1]),
        }
        loss = None
        if labels is not None and next_sentence_label is not None:
            loss = F.cross_entropy(logits["prediction_logits"].flatten(0, 1), labels.view(-1))
            loss = loss + F.cross_entropy(
                logits["seq_relationship_logits"], next_sentence_label.view(-1)
            )
        return head_output(NezhaForPreTrainingOutput, return_dict, loss, logits, outputs)


class NezhaForMaskedLM(_WithLMHead):
    """Masked words."""

    def __init__(self, config: NezhaConfig) -> None:
        super().__init__(config)
        if config.is_decoder:
            warnings.warn(
                "NezhaForMaskedLM is meant for is_decoder=False, bidirectional self-attention",
                stacklevel=2,
            )
        self.nezha = NezhaModel(config, add_pooling_layer=False)
        self.cls = NezhaPreTrainingHeads(config, predictions=True, seq_relationship=False)
        self.post_init()

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
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> tuple | MaskedLMOutput:
        """labels int64 [B, S]; logits [B, S, V]."""
        return_dict = given(return_dict, self.config.return_dict)
        outputs = self.nezha(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=return_dict,
        )
        logits = self.cls.predictions(outputs[0])
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits.flatten(0, 1), labels.view(-1))
        return head_output(MaskedLMOutput, return_dict, loss, {"logits": logits}, outputs)


class NezhaForNextSentencePrediction(NezhaPreTrainedModel):
    """Does the second sentence follow the first?"""

    def __init__(self, config: NezhaConfig) -> None:
        super().__init__(config)
        self.nezha = NezhaModel(config)
        self.cls = NezhaPreTrainingHeads(config, predictions=False, seq_relationship=True)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        next_sentence_label: Tensor | None = None,
    ) -> tuple | NextSentencePredictorOutput:
        """labels int64 [B], 0 follows, 1 random (`next_sentence_label` is their old name)."""
        if next_sentence_label is not None:
            warnings.warn("next_sentence_label is now called labels", FutureWarning, stacklevel=2)
            labels = next_sentence_label
        return_dict = given(return_dict, self.config.return_dict)
        outputs = self.nezha(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=return_dict,
        )
        logits = self.cls.seq_relationship(outputs[1])
        loss = None if labels is None else F.cross_entropy(logits, labels.view(-1))
        return head_output(
            NextSentencePredictorOutput, return_dict, loss, {"logits": logits}, outputs
        )


class NezhaForSequenceClassification(NezhaPreTrainedModel):
    """A label, several labels or numbers for a whole text."""

    def __init__(self, config: NezhaConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels or 0
        self.nezha = NezhaModel(config)
        self.dropout = task_dropout(config)
        self.classifier = nn.Linear(config.hidden_size, self.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> tuple | SequenceClassifierOutput:
        """labels int64 [B], float [B] (regression) or float [B, num_labels] (many at once).

        The first labels seen settle config.problem_type where the user left it open.
        """
        return_dict = given(return_dict, self.config.return_dict)
        outputs = self.nezha(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=return_dict,
        )
        logits = self.classifier(self.dropout(outputs[1]))
        loss = None if labels is None else self._loss(logits, labels)
        return head_output(SequenceClassifierOutput, return_dict, loss, {"logits": logits}, outputs)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.config.problem_type is None:
            if self.num_labels == 1:
                self.config.problem_type = "regression"
            elif labels.dtype in (torch.long, torch.int):
                self.config.problem_type = "single_label_classification"
            else:
                self.config.problem_type = "multi_label_classification"
        if self.config.problem_type == "regression":
            if self.num_labels == 1:
                return F.mse_loss(logits.squeeze(), labels.squeeze())
            return F.mse_loss(logits, labels)
        if self.config.problem_type == "single_label_classification":
            return F.cross_entropy(logits.view(-1, self.num_labels), labels.view(-1))
        return F.binary_cross_entropy_with_logits(logits, labels)


class NezhaForMultipleChoice(NezhaPreTrainedModel):
    """Which of C texts?"""

    def __init__(self, config: NezhaConfig) -> None:
        super().__init__(config)
        self.nezha = NezhaModel(config)
        self.dropout = task_dropout(config)
        self.classifier = nn.Linear(config.hidden_size, 1)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> tuple | MultipleChoiceModelOutput:
        """Inputs [B, C, S] (embeddings [B, C, S, H]), labels int64 [B]; logits [B, C]."""
        return_dict = given(return_dict, self.config.return_dict)
        given_inputs = input_ids if input_ids is not None else inputs_embeds
        if given_inputs is None:
            raise ValueError("You have to specify either input_ids or inputs_embeds")

        def merged(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.flatten(0, 1)

        outputs = self.nezha(
            merged(input_ids),
            attention_mask=merged(attention_mask),
            token_type_ids=merged(token_type_ids),
            head_mask=head_mask,
            inputs_embeds=merged(inputs_embeds),
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=return_dict,
        )
        logits = self.classifier(self.dropout(outputs[1])).view(-1, given_inputs.shape[1])
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return head_output(
            MultipleChoiceModelOutput, return_dict, loss, {"logits": logits}, outputs
        )


class NezhaForTokenClassification(NezhaPreTrainedModel):
    """A label for every token."""

    def __init__(self, config: NezhaConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels or 0
        self.nezha = NezhaModel(config, add_pooling_layer=False)
        self.dropout = task_dropout(config)
        self.classifier = nn.Linear(config.hidden_size, self.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> tuple | TokenClassifierOutput:
        """labels int64 [B, S]; logits [B, S, num_labels]."""
        return_dict = given(return_dict, self.config.return_dict)
        outputs = self.nezha(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=return_dict,
        )
        logits = self.classifier(self.dropout(outputs[0]))
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits.view(-1, self.num_labels), labels.view(-1))
        return head_output(TokenClassifierOutput, return_dict, loss, {"logits": logits}, outputs)


class NezhaForQuestionAnswering(NezhaPreTrainedModel):
    """Where an answer starts and ends."""

    def __init__(self, config: NezhaConfig) -> None:
        super().__init__(config)
        self.nezha = NezhaModel(config, add_pooling_layer=False)
        self.qa_outputs = nn.Linear(config.hidden_size, config.num_labels or 0)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> tuple | QuestionAnsweringModelOutput:
        """start_positions, end_positions int64 [B] or [B, 1]; from S upwards they are ignored."""
        return_dict = given(return_dict, self.config.return_dict)
        outputs = self.nezha(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            head_mask=head_mask,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=return_dict,
        )
        starts, ends = self.qa_outputs(outputs[0]).split(1, dim=-1)
        logits = {
            "start_logits": starts.squeeze(-1).contiguous(),
            "end_logits": ends.squeeze(-1).contiguous(),
        }
        loss = None
        if start_positions is not None and end_positions is not None:
            losses = [
                _position_loss(logits["start_logits"], start_positions),
                _position_loss(logits["end_logits"], end_positions),
            ]
            loss = (losses[0] + losses[1]) / 2
        return head_output(QuestionAnsweringModelOutput, return_dict, loss, logits, outputs)


def _position_loss(logits: Tensor, positions: Tensor) -> Tensor:
    """Cross entropy of logits [B, S] against positions [B] or [B, 1]."""
    length = logits.shape[1]
    positions = positions.squeeze(-1) if positions.dim() > 1 else positions
    return F.cross_entropy(logits, positions.clamp(0, length), ignore_index=length)
