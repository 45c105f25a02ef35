"""NezhaModel, with the semantics of transformers 4.40.2 in transformers 5.

Arguments that every forward shares (B batch, S tokens, H hidden size, V vocabulary):

    input_ids              int64 [B, S]; or inputs_embeds [B, S, H] in their place
    attention_mask         1 where attention may look: [B, S] or [B, S, keys]; in between, graded.
                           A decoder adds the causal mask to the first form, never to the second
    token_type_ids         int64 [B, S], 0 for the first sentence and 1 for the second
    head_mask              [heads] or [layers, heads], multiplied into the attention weights
    output_attentions, output_hidden_states, return_dict
                           as everywhere in transformers; None means what the config says

Outputs are the classes of transformers, or tuples in the order of 4.40.2 with return_dict=False.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

from .attention.choice import ATTENTIONS, Packing
from .configuration_nezha import NezhaConfig
from .layers_nezha import NezhaEmbeddings, NezhaEncoder, NezhaLMPredictionHead, NezhaPooler


class NezhaPreTrainedModel(PreTrainedModel):
    """Weight initialisation, loading and the choice of attention, shared by all Nezha classes."""

    config_class = NezhaConfig
    base_model_prefix = "nezha"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _no_split_modules = ["NezhaEmbeddings", "NezhaLayer"]  # noqa: RUF012
    _supports_sdpa = True
    # Old files carry the tables that are computed here.
    _keys_to_ignore_on_load_unexpected = [r"\.positions_encoding$"]  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, NezhaEncoder):
            # from_pretrained builds on the meta device, where a buffer's values are lost.
            init.copy_(module.position_table, module.new_position_table())
        elif isinstance(module, NezhaLMPredictionHead):
            init.zeros_(module.bias)

    def _check_and_adjust_attn_implementation(
        self, attn_implementation: str | None, *args: Any, **kwargs: Any
    ) -> str:
        """Only the attentions of this network qualify; transformers' own know no positions."""
        name = attn_implementation or "sdpa"
        if name != "eager" and name not in ATTENTIONS:
            known = ", ".join(["eager", *ATTENTIONS])
            raise ValueError(
                f'Specified `attn_implementation="{name}"` is not supported. Nezha has: {known}'
            )
        return name


def additive_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """1 (look) … 0 (don't) → 0 … the lowest number of `dtype`, with a dimension for the heads."""
    if mask.dim() not in (2, 3):
        raise ValueError(f"an attention mask has 2 or 3 dimensions, got shape {tuple(mask.shape)}")
    mask = mask[:, None, None, :] if mask.dim() == 2 else mask[:, None]
    return (1.0 - mask.to(dtype)) * torch.finfo(dtype).min


def causal_mask(mask: Tensor, queries: int) -> Tensor:
    """Mask over keys [B, K] → [B, queries, K] in which the last query sees all, none its future."""
    keys = torch.arange(mask.shape[1], device=mask.device)
    last_seen = keys[mask.shape[1] - queries :, None]
    return (keys <= last_seen).to(mask.dtype) * mask[:, None, :]


def as_cache(past: Any, crossed: bool) -> Cache:
    """The cache to use: a given one, one made of 4.40.2's tuples of tensors, or an empty one.

    A layer's tuple is (key, value), in cross-attention (key, value, cross key, cross value).
    """
    if past is not None and not isinstance(past, Cache):
        joined = len(past) > 0 and len(past[0]) == 4
        past = EncoderDecoderCache(past) if joined else DynamicCache(past)
    past = DynamicCache() if past is None else past
    if crossed and not isinstance(past, EncoderDecoderCache):
        past = EncoderDecoderCache(past, DynamicCache())
    return past


class NezhaModel(NezhaPreTrainedModel):
    """The encoder; a decoder with `is_decoder`, and with `add_cross_attention` half of a pair."""

    def __init__(self, config: NezhaConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.embeddings = NezhaEmbeddings(config)
        self.encoder = NezhaEncoder(config)
        self.pooler = NezhaPooler(config) if add_pooling_layer else None
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: Any) -> None:
        self.embeddings.word_embeddings = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        head_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        past_key_values: Cache | tuple[tuple[Tensor, ...], ...] | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        cu_seqlens: Tensor | None = None,
        longest: int | None = None,
    ) -> tuple | BaseModelOutputWithPoolingAndCrossAttentions:
        """Hidden states [B, S, H] and the pooled first token [B, H] (None without a pooler).

        encoder_hidden_states [B, E, H] and encoder_attention_mask ([B, E] or [B, S, E]) feed a
        decoder's cross-attention. With past_key_values of P tokens the inputs are those that
        follow, and attention_mask spans P + S.

        With cu_seqlens (int [N + 1]) the inputs [1, T] are N texts end to end, text n from
        cu_seqlens[n] to cu_seqlens[n + 1], of `longest` tokens at most; pooled vectors are [N, H].
        """
        config = self.config
        output_attentions = given(output_attentions, config.output_attentions)
        output_hidden_states = given(output_hidden_states, config.output_hidden_states)
        return_dict = given(return_dict, config.return_dict)
        use_cache = config.is_decoder and given(use_cache, config.use_cache)
        if self.gradient_checkpointing and self.training:
            if past_key_values is not None:
                raise ValueError("gradient checkpointing takes no past_key_values in training")
            use_cache = False
        if input_ids is not None and inputs_embeds is not None:
            raise ValueError("You cannot specify both input_ids and inputs_embeds at the same time")
        if input_ids is None and inputs_embeds is None:
            raise ValueError("You have to specify either input_ids or inputs_embeds")
        if cu_seqlens is not None and (
            config.is_decoder
            or output_attentions
            or any(x is not None for x in (attention_mask, head_mask, past_key_values))
        ):
            raise ValueError(
                "packed texts (cu_seqlens) take no masks, no cache, give no attentions"
            )
        if not config.is_decoder:
            encoder_hidden_states = None
        elif encoder_hidden_states is not None and not config.add_cross_attention:
            raise ValueError(
                "encoder_hidden_states need cross-attention layers: set add_cross_attention=True"
            )

        past = None
        if use_cache or past_key_values is not None:
            past = as_cache(past_key_values, encoder_hidden_states is not None)
        offset = past.get_seq_length() if past is not None else 0
        hidden_states = self.embeddings(input_ids, token_type_ids, inputs_embeds)
        batch, queries = hidden_states.shape[:2]
        packing = None if cu_seqlens is None else Packing.of(cu_seqlens, queries, longest)
        if config.is_decoder:
            if attention_mask is None:
                attention_mask = hidden_states.new_ones(batch, offset + queries)
            if attention_mask.dim() == 2:
                attention_mask = causal_mask(attention_mask, queries)
        states, attentions, cross_attentions = self.encoder(
            hidden_states,
            head_mask=self._layer_head_masks(head_mask),
            output_hidden_states=output_hidden_states,
            attention_mask=self._additive(attention_mask),
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=self._additive(encoder_attention_mask),
            past_key_values=past,
            offset=offset,
            output_attentions=output_attentions,
            packing=packing,
        )
        texts = states[-1] if cu_seqlens is None else states[-1][0, cu_seqlens[:-1], None]
        pooled = None if self.pooler is None else self.pooler(texts)
        rest: dict[str, Any] = {
            "past_key_values": past if use_cache else None,
            "hidden_states": states if output_hidden_states else None,
            "attentions": attentions if output_attentions else None,
            "cross_attentions": cross_attentions or None,
        }
        if not return_dict:
            # The pooled vector keeps its place even where it is None: heads take what follows it.
            return states[-1], pooled, *(value for value in rest.values() if value is not None)
        return BaseModelOutputWithPoolingAndCrossAttentions(
            last_hidden_state=states[-1], pooler_output=pooled, **rest
        )

    def _additive(self, mask: Tensor | None) -> Tensor | None:
        return None if mask is None else additive_mask(mask, self.dtype)

    def _layer_head_masks(self, head_mask: Tensor | None) -> list[Tensor] | None:
        """[heads] or [layers, heads] → one [1, heads, 1, 1] a layer."""
        if head_mask is None:
            return None
        layers = head_mask.to(self.dtype).expand(self.config.num_hidden_layers, -1)
        return list(layers[:, None, :, None, None])


def given(value: bool | None, default: bool | None) -> bool:
    """`value` unless it is None."""
    return bool(default if value is None else value)
