"""NezhaModel, with the semantics of transformers 4.40.2 in transformers 5.

Arguments that every forward shares (B batch, S tokens, H hidden size, V vocabulary):

    input_ids              int64 [B, S]; or inputs_embeds [B, S, H] in their place
    attention_mask         [B, S] or [B, S, keys]: 1 where attention may look, 0 where not, and
                           graded in between; or [B, 1 or heads, S, keys] as transformers has it,
                           True where attention may look, or numbers to add to the scores.
                           A decoder adds the causal mask to the first form alone
    token_type_ids         int64 [B, S], 0 for the first sentence and 1 for the second
    head_mask              [heads] or [layers, heads], multiplied into the attention weights
    output_attentions, output_hidden_states, return_dict
                           as everywhere in transformers
    position_ids           accepted without effect: positions are relative, and computed
    num_items_in_batch     a number by which the sum of the losses is divided in place of their mean

Outputs are the classes of transformers, or tuples in the order of 4.40.2 with return_dict=False.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions
from transformers.models.bert.modeling_bert import BertPooler
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .attention.interface import ALL_ATTENTION_FUNCTIONS
from .attention.packing import Packing
from .configuration_nezha import NezhaConfig
from .layers_nezha import (
    NezhaEmbeddings,
    NezhaEncoder,
    NezhaLayer,
    NezhaLMPredictionHead,
    NezhaSelfAttention,
)
from .traceable import Traceable


class NezhaPreTrainedModel(Traceable, PreTrainedModel):
    """Weight initialisation, loading and the choice of attention, shared by all Nezha classes."""

    config_class = NezhaConfig
    base_model_prefix = "nezha"
    supports_gradient_checkpointing = True
    _no_split_modules = ["NezhaEmbeddings", "NezhaLayer"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_record_outputs = {  # noqa: RUF012
        "hidden_states": NezhaLayer,
        "attentions": OutputRecorder(NezhaSelfAttention, index=1, layer_name="attention"),
        "cross_attentions": OutputRecorder(
            NezhaSelfAttention, index=1, layer_name="crossattention"
        ),
    }
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
        """Refuse the attentions of transformers, which know no positions on keys and values."""
        name = attn_implementation or "sdpa"
        if name != "eager" and name not in ALL_ATTENTION_FUNCTIONS:
            known = ", ".join(["eager", *ALL_ATTENTION_FUNCTIONS])
            raise ValueError(
                f'Specified `attn_implementation="{name}"` is not supported. Nezha has: {known}'
            )
        return name


def additive_mask(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A mask in any form that a user may give → numbers to add to scores, 4 dimensions.

    Unlike create_bidirectional_mask of transformers it takes graded masks, and a mask over keys
    stays as small as it is.
    """
    if mask is None:
        return None
    if mask.dim() == 4:
        if not (mask.dtype == torch.bool or mask.is_floating_point()):
            raise ValueError(
                f"an attention mask of 4 dimensions is boolean or holds numbers to add to the "
                f"scores, got {mask.dtype}: give mask.bool(), or a mask of 2 or 3 dimensions"
            )
        return (~mask).to(dtype) * torch.finfo(dtype).min if mask.dtype == torch.bool else mask
    if mask.dim() not in (2, 3):
        raise ValueError(f"an attention mask has 2 to 4 dimensions, got shape {tuple(mask.shape)}")
    mask = mask[:, None, None, :] if mask.dim() == 2 else mask[:, None]
    return (1.0 - mask.to(dtype)) * torch.finfo(dtype).min


def as_cache(past: Any, crossed: bool) -> Cache:
    """The cache to use: a given one, one made of 4.40.2's tuples of tensors, or an empty one.

    A layer's tuple is (key, value), in cross-attention (key, value, cross key, cross value).
    """
    if not isinstance(past, Cache):
        layers: Any = past or ()
        joined = len(layers) > 0 and len(layers[0]) == 4
        past = EncoderDecoderCache(layers) if joined else DynamicCache(layers)
    if crossed and not isinstance(past, EncoderDecoderCache):
        past = EncoderDecoderCache(past, DynamicCache())
    return past


class NezhaModel(NezhaPreTrainedModel):
    """The encoder; a decoder with `is_decoder`, and with `add_cross_attention` half of a pair."""

    def __init__(self, config: NezhaConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.embeddings = NezhaEmbeddings(config)
        self.encoder = NezhaEncoder(config)
        self.pooler = BertPooler(config) if add_pooling_layer else None
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: Any) -> None:
        self.embeddings.word_embeddings = value

    @merge_with_config_defaults
    @capture_outputs
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
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | BaseModelOutputWithPoolingAndCrossAttentions:
        """Hidden states [B, S, H] and the pooled first token [B, H] (None without a pooler).

        encoder_hidden_states [B, E, H] and encoder_attention_mask ([B, E] or [B, S, E]) feed a
        decoder's cross-attention. With past_key_values of P tokens the inputs are those that
        follow, and attention_mask spans P + S.

        With cu_seq_lens_q (int [N + 1]) the inputs [1, T] are N sequences end to end, sequence n
        from cu_seq_lens_q[n] to cu_seq_lens_q[n + 1], of max_length_q tokens at most; pooled
        vectors are [N, H]. Keys are packed like queries: cu_seq_lens_k and max_length_k may only
        repeat that.
        """
        config = self.config
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds: not both, and not neither")
        if self.gradient_checkpointing and self.training and past_key_values is not None:
            raise ValueError("gradient checkpointing takes no past_key_values in training")
        if not config.is_decoder:
            encoder_hidden_states, use_cache = None, False
        elif encoder_hidden_states is not None and not config.add_cross_attention:
            raise ValueError(
                "encoder_hidden_states need cross-attention layers: set add_cross_attention=True"
            )
        past = None
        if use_cache or past_key_values is not None:
            past = as_cache(past_key_values, encoder_hidden_states is not None)
        if kwargs.get("output_attentions") is None:
            kwargs["output_attentions"] = config.output_attentions
        given: Any = inputs_embeds if input_ids is None else input_ids
        packing = _packing(given.shape[1], **kwargs)
        if packing is not None and (
            config.is_decoder
            or kwargs["output_attentions"]
            or any(x is not None for x in (attention_mask, head_mask, past))
        ):
            raise ValueError(
                "packed sequences (cu_seq_lens_q) take no masks, no cache, and give no attentions"
            )
        offset = 0 if past is None else past.get_seq_length()
        positions = self._absolute_positions(given, offset, packing)
        hidden_states = self.embeddings(input_ids, token_type_ids, inputs_embeds, positions)
        hidden_states = self.encoder(
            hidden_states,
            self._mask(attention_mask, hidden_states, past),
            encoder_hidden_states,
            additive_mask(encoder_attention_mask, hidden_states.dtype),
            head_masks=self._head_masks(head_mask),
            past_key_values=past,
            offset=offset,
            packing=packing,
            **kwargs,
        )
        sequences = hidden_states
        if packing is not None:
            sequences = hidden_states[0, packing.cu_seqlens[:-1], None]
        pooled = None if self.pooler is None else self.pooler(sequences)
        return BaseModelOutputWithPoolingAndCrossAttentions(
            last_hidden_state=hidden_states,
            pooler_output=pooled,
            past_key_values=past if use_cache else None,
        )

    def _absolute_positions(
        self, given: Tensor, offset: int, packing: Packing | None
    ) -> Tensor | None:
        """[S], the places of the tokens in their sequences; None if the network has none."""
        config, tokens = self.config, given.shape[1]
        if not config.absolute_positions:
            return None
        longest = tokens + offset if packing is None else packing.longest
        if longest > config.max_position_embeddings:
            raise ValueError(
                f"{longest} tokens are more than max_position_embeddings, "
                f"{config.max_position_embeddings}, which absolute positions have"
            )
        if packing is not None:
            return packing.positions(tokens)
        return torch.arange(offset, longest, device=given.device)

    def _mask(self, mask: Tensor | None, embeds: Tensor, past: Cache | None) -> Tensor | None:
        """What to add to the scores of self-attention."""
        bias = additive_mask(mask, embeds.dtype)
        if not self.config.is_decoder or (mask is not None and mask.dim() > 2):
            return bias
        causal: Any = create_causal_mask(
            self.config, embeds, None, past, allow_is_causal_skip=False
        )
        causal = additive_mask(causal, embeds.dtype)
        if causal is None or bias is None:
            return bias if causal is None else causal
        return torch.clamp(causal + bias, min=torch.finfo(embeds.dtype).min)

    def _head_masks(self, head_mask: Tensor | None) -> Tensor | None:
        """[heads] or [layers, heads] → [layers, 1, heads, 1, 1]."""
        if head_mask is None:
            return None
        layers = head_mask.to(self.dtype).expand(self.config.num_hidden_layers, -1)
        return layers[:, None, :, None, None]


def _packing(
    tokens: int,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    cu_seq_lens_k: Tensor | None = None,
    max_length_k: int | None = None,
    **_: Any,
) -> Packing | None:
    """The places of packed sequences.

    Raises ValueError if keys are packed in another way than queries.
    """
    for queries, keys in ((cu_seq_lens_q, cu_seq_lens_k), (max_length_q, max_length_k)):
        if keys is None or keys is queries:
            continue
        if queries is None or not torch.equal(torch.as_tensor(keys), torch.as_tensor(queries)):
            raise ValueError(
                "cu_seq_lens_k and max_length_k must equal cu_seq_lens_q and max_length_q"
            )
    return None if cu_seq_lens_q is None else Packing.of(cu_seq_lens_q, tokens, max_length_q)
