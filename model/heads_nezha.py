"""The seven heads of Nezha, with the semantics of transformers 4.40.2.

The arguments that all share are described in `modeling_nezha.py`. A loss is the mean over the
labels other than -100. With return_dict=False the output is (loss if any, logits, …).
"""

import warnings
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers.loss.loss_utils import fixed_cross_entropy
from transformers.modeling_outputs import (
    MaskedLMOutput,
    MultipleChoiceModelOutput,
    NextSentencePredictorOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple

from .configuration_nezha import NezhaConfig
from .layers_nezha import NezhaPreTrainingHeads
from .modeling_nezha import NezhaModel, NezhaPreTrainedModel


@dataclass
class NezhaForPreTrainingOutput(ModelOutput):
    """loss (both labels given), prediction_logits [B, S, V], seq_relationship_logits [B, 2]."""

    loss: Tensor | None = None
    prediction_logits: Tensor | None = None
    seq_relationship_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


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

    # num_items_in_batch counts words, not pairs: the Trainer has to take the mean of means.
    accepts_loss_kwargs = False

    def __init__(self, config: NezhaConfig) -> None:
        super().__init__(config)
        self.nezha = NezhaModel(config)
        self.cls = NezhaPreTrainingHeads(config, predictions=True, seq_relationship=True)
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
        next_sentence_label: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | NezhaForPreTrainingOutput:
        """labels [B, S] and next_sentence_label [B] (0 follows, 1 random) → the sum of both losses.

        There is no loss unless both are given. num_items_in_batch divides the loss of words alone.
        """
        inputs = input_ids, attention_mask, token_type_ids, head_mask, inputs_embeds
        outputs = self.nezha(*inputs, return_dict=True, **kwargs)
        words = self.cls.predictions(outputs.last_hidden_state)
        pairs = self.cls.seq_relationship(outputs.pooler_output)
        loss = None
        if labels is not None and next_sentence_label is not None:
            items = kwargs.get("num_items_in_batch")
            loss = fixed_cross_entropy(words.flatten(0, 1), labels.view(-1), items)
            loss = loss + fixed_cross_entropy(pairs, next_sentence_label.view(-1))
        return NezhaForPreTrainingOutput(
            loss, words, pairs, outputs.hidden_states, outputs.attentions
        )


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
        next_sentence_label: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | NextSentencePredictorOutput:
        """labels int64 [B], 0 follows, 1 random (`next_sentence_label` is their old name)."""
        if next_sentence_label is not None:
            warnings.warn("next_sentence_label is now called labels", FutureWarning, stacklevel=2)
            labels = next_sentence_label
        inputs = input_ids, attention_mask, token_type_ids, head_mask, inputs_embeds
        outputs = self.nezha(*inputs, return_dict=True, **kwargs)
        logits = self.cls.seq_relationship(outputs.pooler_output)
        loss = None
        if labels is not None:
            loss = fixed_cross_entropy(logits, labels.view(-1), kwargs.get("num_items_in_batch"))
        return NextSentencePredictorOutput(loss, logits, outputs.hidden_states, outputs.attentions)


class NezhaForSequenceClassification(NezhaPreTrainedModel):
    """A label, several labels or numbers for a whole sequence."""

    def __init__(self, config: NezhaConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels or 0
        self.nezha = NezhaModel(config)
        self.dropout = task_dropout(config)
        self.classifier = nn.Linear(config.hidden_size, self.num_labels)
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
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | SequenceClassifierOutput:
        """labels int64 [B], float [B] (regression) or float [B, num_labels] (many at once).

        The first labels seen set config.problem_type where the user left it open.
        """
        inputs = input_ids, attention_mask, token_type_ids, head_mask, inputs_embeds
        outputs = self.nezha(*inputs, return_dict=True, **kwargs)
        logits = self.classifier(self.dropout(outputs.pooler_output))
        loss = None
        if labels is not None:
            loss = self.loss_function(
                labels=labels, pooled_logits=logits, config=self.config, **kwargs
            )
        return SequenceClassifierOutput(loss, logits, outputs.hidden_states, outputs.attentions)


class NezhaForMultipleChoice(NezhaPreTrainedModel):
    """Which of C sequences?"""

    def __init__(self, config: NezhaConfig) -> None:
        super().__init__(config)
        self.nezha = NezhaModel(config)
        self.dropout = task_dropout(config)
        self.classifier = nn.Linear(config.hidden_size, 1)
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
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | MultipleChoiceModelOutput:
        """Inputs [B, C, S] (embeddings [B, C, S, H]), labels int64 [B]; logits [B, C]."""
        given = input_ids if input_ids is not None else inputs_embeds
        if given is None:
            raise ValueError("give either input_ids or inputs_embeds")

        inputs, embeds = (input_ids, attention_mask, token_type_ids), inputs_embeds
        *flat, embeds = (None if x is None else x.flatten(0, 1) for x in (*inputs, embeds))
        outputs = self.nezha(*flat, head_mask, embeds, return_dict=True, **kwargs)
        logits = self.classifier(self.dropout(outputs.pooler_output)).view(-1, given.shape[1])
        loss = None
        if labels is not None:
            loss = fixed_cross_entropy(logits, labels, kwargs.get("num_items_in_batch"))
        return MultipleChoiceModelOutput(loss, logits, outputs.hidden_states, outputs.attentions)


class NezhaForTokenClassification(NezhaPreTrainedModel):
    """A label for every token."""

    def __init__(self, config: NezhaConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels or 0
        self.nezha = NezhaModel(config, add_pooling_layer=False)
        self.dropout = task_dropout(config)
        self.classifier = nn.Linear(config.hidden_size, self.num_labels)
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
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | TokenClassifierOutput:
        """labels int64 [B, S]; logits [B, S, num_labels]."""
        inputs = input_ids, attention_mask, token_type_ids, head_mask, inputs_embeds
        outputs = self.nezha(*inputs, return_dict=True, **kwargs)
        logits = self.classifier(self.dropout(outputs.last_hidden_state))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, self.config, **kwargs)
        return TokenClassifierOutput(loss, logits, outputs.hidden_states, outputs.attentions)


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
