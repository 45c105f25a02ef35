"""The building blocks of Nezha: embeddings, attention, encoder layers, pooler and LM head.

Module and parameter names are those of transformers 4.40.2, so that its state dicts load.
Letters in shapes: B batch, S tokens, H hidden size, V vocabulary, d head size.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, EncoderDecoderCache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import apply_chunking_to_forward

from .attention.choice import Packing, attend, attend_packed, position_table
from .configuration_nezha import NezhaConfig
from .cpu_feed_forward import GeluLinear, gelu_linear_suits
from .fused.add_norm import add_norm
from .fused.dropout import Dropout
from .plain_linear import in_one_product, is_plain, is_untouched


class NezhaEmbeddings(nn.Module):
    """Token ids → word + token-type vectors, normalised; positions enter in the attention."""

    def __init__(self, config: NezhaConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(
            config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id
        )
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        input_ids: Tensor | None,
        token_type_ids: Tensor | None,
        inputs_embeds: Tensor | None,
    ) -> Tensor:
        """input_ids, token_type_ids int64 [B, S], or inputs_embeds [B, S, H] → [B, S, H]."""
        if inputs_embeds is None:
            inputs_embeds = self.word_embeddings(input_ids)
        if token_type_ids is None:
            token_type_ids = torch.zeros(
                inputs_embeds.shape[:2], dtype=torch.long, device=inputs_embeds.device
            )
        summed = inputs_embeds + self.token_type_embeddings(token_type_ids)
        return self.dropout(self.LayerNorm(summed))


class NezhaSelfAttention(nn.Module):
    """Queries, keys and values, and the attention between them; also serves cross-attention."""

    def __init__(self, config: NezhaConfig, layer_index: int) -> None:
        super().__init__()
        self.config = config
        self.layer_index = layer_index
        self.heads = config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        hidden_states: Tensor,
        table: Tensor,
        attention_mask: Tensor | None = None,
        head_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        past_key_values: Cache | None = None,
        offset: int = 0,
        output_attentions: bool = False,
        packing: Packing | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Returns context [B, S, H] and, where asked for, weights [B, heads, S, keys].

        `offset` is the position of the first query: the number of tokens already in the cache.
        With `packing` the one row is many texts, see `attend_packed`.
        """
        name = self.config._attn_implementation
        dropout = self.config.attention_probs_dropout_prob if self.training else 0.0
        layers = [self.query, self.key, self.value]
        alone = encoder_hidden_states is None and past_key_values is None
        # On CPUs one product of three weights is no faster than three.
        if alone and hidden_states.device.type == "cuda" and is_plain(*layers):
            projected = in_one_product(layers, hidden_states)
            queries, keys, values = (self._split(x) for x in projected)
        else:
            queries = self._split(self.query(hidden_states))
            keys, values = self._keys_and_values(
                hidden_states, encoder_hidden_states, past_key_values
            )
        weights = None
        if packing is not None:
            context = attend_packed(name, queries, keys, values, table, packing, dropout)
        else:
            context, weights = attend(
                name,
                queries,
                keys,
                values,
                table,
                mask=attention_mask,
                head_mask=head_mask,
                dropout=dropout,
                offset=offset,
                need_weights=output_attentions,
            )
        return context.transpose(1, 2).flatten(2), weights

    def _split(self, x: Tensor) -> Tensor:
        """[B, S, H] → [B, heads, S, d]."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

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
                if past.is_updated.get(self.layer_index):
                    layer: Any = past.cross_attention_cache.layers[self.layer_index]
                    return layer.keys, layer.values
                past.is_updated[self.layer_index] = True
                cache = past.cross_attention_cache
        keys, values = self._split(self.key(source)), self._split(self.value(source))
        return (keys, values) if cache is None else cache.update(keys, values, self.layer_index)


class NezhaAddNorm(nn.Module):
    """Project, drop out, add the residual, normalise; `output` of attention and of feed-forward."""

    def __init__(self, config: NezhaConfig, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """x [B, S, width], residual [B, S, H] → [B, S, H]."""
        return self.add_norm(self.dense(x), residual)

    def add_norm(self, projected: Tensor, residual: Tensor) -> Tensor:
        """What follows the projection, both [B, S, H]."""
        return add_norm(self.LayerNorm, self.dropout, projected, residual)


class NezhaAttention(nn.Module):
    """Attention with its output projection and residual."""

    def __init__(self, config: NezhaConfig, layer_index: int) -> None:
        super().__init__()
        self.self = NezhaSelfAttention(config, layer_index)
        self.output = NezhaAddNorm(config, config.hidden_size)

    def forward(self, hidden_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor | None]:
        """As NezhaSelfAttention.forward."""
        context, weights = self.self(hidden_states, *args, **kwargs)
        return self.output(context, hidden_states), weights


class NezhaIntermediate(nn.Module):
    """The wide half of the feed-forward network."""

    def __init__(self, config: NezhaConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, H] → [B, S, intermediate]."""
        return self.activation(self.dense(x))


class NezhaLayer(GradientCheckpointingLayer):
    """Self-attention, cross-attention in a decoder that has it, feed-forward."""

    def __init__(self, config: NezhaConfig, layer_index: int) -> None:
        super().__init__()
        self.chunk_size_feed_forward = config.chunk_size_feed_forward
        self.attention = NezhaAttention(config, layer_index)
        if config.add_cross_attention:
            self.crossattention = NezhaAttention(config, layer_index)
        self.intermediate = NezhaIntermediate(config)
        self.output = NezhaAddNorm(config, config.intermediate_size)

    def forward(
        self,
        hidden_states: Tensor,
        table: Tensor,
        attention_mask: Tensor | None = None,
        head_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        offset: int = 0,
        output_attentions: bool = False,
        packing: Packing | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """[B, S, H] → [B, S, H], and the weights of self- and cross-attention where asked for."""
        shared = {"offset": offset, "output_attentions": output_attentions}
        hidden_states, weights = self.attention(
            hidden_states,
            table,
            attention_mask,
            head_mask,
            past_key_values=past_key_values,
            packing=packing,
            **shared,
        )
        cross_weights = None
        if encoder_hidden_states is not None:
            hidden_states, cross_weights = self.crossattention(
                hidden_states,
                table,
                encoder_attention_mask,
                head_mask,
                encoder_hidden_states,
                past_key_values,
                **shared,
            )
        hidden_states = apply_chunking_to_forward(
            self._feed_forward, self.chunk_size_feed_forward, 1, hidden_states
        )
        return hidden_states, weights, cross_weights

    def _feed_forward(self, x: Tensor) -> Tensor:
        inner, output = self.intermediate, self.output
        if (
            is_untouched(inner, NezhaIntermediate)
            and is_untouched(output, NezhaAddNorm)
            and gelu_linear_suits(inner.activation, output.dense, x)
        ):
            wide = inner.dense(x)
            projected = GeluLinear.apply(wide, output.dense.weight, output.dense.bias)
            return output.add_norm(projected, x)
        return output(inner(x), x)


class NezhaEncoder(nn.Module):
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
        """The table [2k + 1, d], computed afresh."""
        return position_table(self.config.attention_head_size, self.config.max_relative_position)

    def forward(
        self,
        hidden_states: Tensor,
        head_mask: list[Tensor] | None = None,
        output_hidden_states: bool = False,
        **kwargs,
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], tuple[Tensor, ...]]:
        """hidden_states [B, S, H] → hidden states, attentions and cross-attentions by layer.

        Of the hidden states only the last is kept unless all are asked for.
        """
        states: tuple[Tensor, ...] = (hidden_states,)
        attentions: tuple[Tensor, ...] = ()
        cross_attentions: tuple[Tensor, ...] = ()
        for index, layer in enumerate(self.layer):
            hidden_states, weights, cross_weights = layer(
                hidden_states,
                self.position_table,
                head_mask=None if head_mask is None else head_mask[index],
                **kwargs,
            )
            states = (*states, hidden_states) if output_hidden_states else (hidden_states,)
            attentions += () if weights is None else (weights,)
            cross_attentions += () if cross_weights is None else (cross_weights,)
        return states, attentions, cross_attentions


class NezhaPooler(nn.Module):
    """The first token's vector, projected."""

    def __init__(self, config: NezhaConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[B, S, H] → [B, H]."""
        return torch.tanh(self.dense(hidden_states[:, 0]))


class NezhaPredictionHeadTransform(nn.Module):
    """Dense, activation and LayerNorm in front of the decoder."""

    def __init__(self, config: NezhaConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """[..., H] → [..., H]."""
        return self.LayerNorm(self.activation(self.dense(x)))


class NezhaLMPredictionHead(nn.Module):
    """Hidden states → scores over the vocabulary."""

    def __init__(self, config: NezhaConfig) -> None:
        super().__init__()
        self.transform = NezhaPredictionHeadTransform(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)
        # The name under which checkpoints keep the decoder's bias; tied to it.
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """[..., H] → [..., V]; gather the masked positions first, and no other is computed."""
        return self.decoder(self.transform(hidden_states))


class NezhaPreTrainingHeads(nn.Module):
    """What sits under `cls`: the LM head, the next-sentence head, or both."""

    def __init__(self, config: NezhaConfig, predictions: bool, seq_relationship: bool) -> None:
        super().__init__()
        if predictions:
            self.predictions = NezhaLMPredictionHead(config)
        if seq_relationship:
            self.seq_relationship = nn.Linear(config.hidden_size, 2)
