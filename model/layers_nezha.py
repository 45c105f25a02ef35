"""The building blocks of Nezha: embeddings, attention, encoder layers and LM head.

What is as in BERT comes from there, with our dropout, which is cheap on CPUs.
Module and parameter names are those of transformers 4.40.2, so that its state dicts load.
Letters in shapes: B batch, S tokens, H hidden size, V vocabulary, d head size.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.cache_utils import Cache, EncoderDecoderCache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.bert.modeling_bert import (
    BertIntermediate,
    BertOutput,
    BertPredictionHeadTransform,
    BertSelfOutput,
)
from transformers.processing_utils import Unpack
from transformers.pytorch_utils import apply_chunking_to_forward
from transformers.utils import TransformersKwargs

from .attention.definition import position_table
from .attention.interface import ALL_ATTENTION_FUNCTIONS, eager_attention_forward
from .configuration_nezha import NezhaConfig
from .fused.cross_entropy import Decoder
from .fused.dropout import Dropout
from .traceable import Traceable


class NezhaEmbeddings(Traceable, nn.Module):
    """Token ids → word + token-type vectors, normalised; positions enter in the attention.

    With `config.absolute_positions` learned vectors of positions are added, as in BERT.
    """

    def __init__(self, config: NezhaConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(
            config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id
        )
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        if config.absolute_positions:
            self.position_embeddings = nn.Embedding(
                config.max_position_embeddings, config.hidden_size
            )
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        input_ids: Tensor | None,
        token_type_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        positions: Tensor | None,
    ) -> Tensor:
        """input_ids, token_type_ids int64 [B, S], or inputs_embeds [B, S, H] → [B, S, H].

        positions: int64 [S], of the tokens in their sequences; None without absolute positions.
        """
        if inputs_embeds is None:
            inputs_embeds = self.word_embeddings(input_ids)
        if token_type_ids is None:
            token_type_ids = torch.zeros(
                inputs_embeds.shape[:2], dtype=torch.long, device=inputs_embeds.device
            )
        summed = inputs_embeds + self.token_type_embeddings(token_type_ids)
        if positions is not None:
            summed = summed + self.position_embeddings(positions)
        return self.dropout(self.LayerNorm(summed))


class NezhaSelfAttention(Traceable, nn.Module):
    """Queries, keys and values, and the attention between them; also serves cross-attention."""

    def __init__(self, config: NezhaConfig, layer_idx: int, is_causal: bool = False) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = is_causal
        self.head_dim = config.attention_head_size
        self.scaling = self.head_dim**-0.5
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[Tensor, Tensor | None]:
        """Returns context [B, S, H] and, if output_attentions, weights [B, heads, S, keys]."""
        queries = self._split(self.query(hidden_states))
        keys, values = self._keys_and_values(hidden_states, encoder_hidden_states, past_key_values)
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        context, weights = attention(
            self,
            queries,
            keys,
            values,
            attention_mask,
            dropout=self.config.attention_probs_dropout_prob if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return context.flatten(2), weights

    def _split(self, x: Tensor) -> Tensor:
        """[B, S, H] → [B, heads, S, d]."""
        # Not `unflatten`, of which torch.jit.trace keeps the sizes that it saw.
        return x.view(*x.shape[:2], -1, self.head_dim).transpose(1, 2)

    def _keys_and_values(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor | None, past: Cache | None
    ) -> tuple[Tensor, Tensor]:
        """Projected keys and values [B, heads, K, d], joined with or taken from the cache."""
        source, cache = hidden_states, past
        if isinstance(past, EncoderDecoderCache):
            cache = past.self_attention_cache
        if encoder_hidden_states is not None:
            source, cache = encoder_hidden_states, None
            if isinstance(past, EncoderDecoderCache):
                if past.is_updated.get(self.layer_idx):
                    layer: Any = past.cross_attention_cache.layers[self.layer_idx]
                    return layer.keys, layer.values
                past.is_updated[self.layer_idx] = True
                cache = past.cross_attention_cache
        keys, values = self._split(self.key(source)), self._split(self.value(source))
        return (keys, values) if cache is None else cache.update(keys, values, self.layer_idx)


class NezhaAttention(Traceable, nn.Module):
    """Attention with its output projection and residual."""

    def __init__(self, config: NezhaConfig, layer_idx: int, is_causal: bool = False) -> None:
        super().__init__()
        self.self = NezhaSelfAttention(config, layer_idx, is_causal)
        self.output = BertSelfOutput(config)
        self.output.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """[B, S, H] → [B, S, H]; arguments as in NezhaSelfAttention."""
        context, _ = self.self(hidden_states, *args, **kwargs)
        return self.output(context, hidden_states)


class NezhaLayer(Traceable, GradientCheckpointingLayer):
    """Self-attention, cross-attention in a decoder that has it, feed-forward."""

    def __init__(self, config: NezhaConfig, layer_idx: int) -> None:
        super().__init__()
        self.chunk_size_feed_forward = config.chunk_size_feed_forward
        self.attention = NezhaAttention(config, layer_idx, config.is_decoder)
        if config.add_cross_attention:
            self.crossattention = NezhaAttention(config, layer_idx)
        self.intermediate = BertIntermediate(config)
        self.output = BertOutput(config)
        self.output.dropout = Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Tensor:
        """[B, S, H] → [B, S, H]."""
        hidden_states = self.attention(
            hidden_states, attention_mask, past_key_values=past_key_values, **kwargs
        )
        if encoder_hidden_states is not None:
            hidden_states = self.crossattention(
                hidden_states,
                encoder_attention_mask,
                encoder_hidden_states,
                past_key_values=past_key_values,
                **kwargs,
            )
        return apply_chunking_to_forward(
            self._feed_forward, self.chunk_size_feed_forward, 1, hidden_states
        )

    def _feed_forward(self, x: Tensor) -> Tensor:
        return self.output(self.intermediate(x), x)


class NezhaEncoder(Traceable, nn.Module):
    """The stack of layers, and the one position table that they share."""

    position_table: Tensor

    def __init__(self, config: NezhaConfig) -> None:
        super().__init__()
        self.config = config
        self.layer = nn.ModuleList(
            NezhaLayer(config, index) for index in range(config.num_hidden_layers)
        )
        self.register_buffer("position_table", self.new_position_table(), persistent=False)

    def new_position_table(self) -> Tensor:
        """The table [2k + 1, d], computed anew."""
        return position_table(self.config.attention_head_size, self.config.max_relative_position)

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        """Apply a conversion to all but the table, which half precision would round for good.

        A network that was built on the meta device has no table before it has memory.
        """
        was_meta = self.position_table.is_meta
        super()._apply(*args, **kwargs)
        if self.position_table.dtype != torch.float32 or was_meta:
            self.position_table = self.new_position_table().to(self.position_table.device)
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Load, and make the table where load_state_dict(…, assign=True) replaces the meta device.

        Attention over a table without values would give NaN.
        """
        super()._load_from_state_dict(*args, **kwargs)
        metadata = args[2]
        if self.position_table.is_meta and metadata.get("assign_to_params_buffers"):
            self.position_table = self.new_position_table()

    def forward(
        self,
        hidden_states: Tensor,
        *inputs: Tensor | None,
        head_masks: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> Tensor:
        """hidden_states [B, S, H] → [B, S, H].

        inputs: the others that NezhaLayer takes by position, as gradient checkpointing needs them.
        head_masks: one for each layer.
        """
        for index, layer in enumerate(self.layer):
            head_mask = None if head_masks is None else head_masks[index]
            hidden_states = layer(
                hidden_states,
                *inputs,
                position_table=self.position_table,
                head_mask=head_mask,
                **kwargs,
            )
        return hidden_states


class NezhaLMPredictionHead(Traceable, nn.Module):
    """Hidden states → scores over the vocabulary, or their loss."""

    def __init__(self, config: NezhaConfig) -> None:
        super().__init__()
        self.transform = BertPredictionHeadTransform(config)
        self.decoder = Decoder(config.hidden_size, config.vocab_size)
        # The name under which checkpoints keep the decoder's bias; tied to it.
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden_states: Tensor, labels: Tensor | None = None) -> Any:
        """[..., H] → [..., V]; gather the masked positions first to compute no others.

        With hidden_states [M, H] and labels (int64 [M], all of them words) the result is the sum of
        the cross-entropies in nats (float32 scalar) and where the highest score is right (bool
        [M]); the scores then never exist all at once, unless another module, such as an adapter,
        has taken the place of the decoder.
        """
        x = self.transform(hidden_states)
        if labels is None:
            return self.decoder(x)
        if isinstance(self.decoder, Decoder):
            return self.decoder(x, labels)
        scores = self.decoder(x).float()
        return F.cross_entropy(scores, labels, reduction="sum"), scores.argmax(-1) == labels


class NezhaPreTrainingHeads(Traceable, nn.Module):
    """The modules under `cls`: the LM head, the next-sentence head, or both."""

    def __init__(self, config: NezhaConfig, predictions: bool, seq_relationship: bool) -> None:
        super().__init__()
        if predictions:
            self.predictions = NezhaLMPredictionHead(config)
        if seq_relationship:
            self.seq_relationship = nn.Linear(config.hidden_size, 2)
