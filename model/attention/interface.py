"""The attentions of Nezha by name, in the form of transformers' AttentionInterface.

eager   the definition, by operators of torch alone; any device, dtype and transform
sdpa    the fastest that fits: tiles on a CPU, the Triton kernels on a GPU, else eager
flash   the Triton kernels, or an error where they do not fit

The memory of sdpa and flash grows linearly with the length of a sequence, that of eager with its
square.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from ..fused.dropout import is_usable_rate, kernel_seed
from ..fused.operators import check_transforms, only_torch_operators
from .definition import eager_attention
from .packing import Packing, additive, on_padded
from .tiled import tiled_attention

try:
    from .triton_attention import triton_attention, why_not

    HAS_TRITON = True
except ImportError:  # torch brings no Triton for CPUs and for some systems
    HAS_TRITON = False


def sdpa(
    q: Tensor, k: Tensor, v: Tensor, table: Tensor, mask: Tensor | None = None,
    packing: Packing | None = None, **options: Any,
) -> Tensor:  # fmt: skip
    """The context by the fastest attention that fits the operands; arguments as in `flash`."""
    attention = _fastest(q, options.get("dropout", 0.0))
    return attention(q, k, v, table, mask, packing, **options)


def _fastest(q: Tensor, dropout: float) -> Callable[..., Tensor]:
    if only_torch_operators():
        return EAGER
    if q.device.type == "cpu" and (not dropout or is_usable_rate(dropout)):
        return TILED
    if q.device.type == "cuda" and HAS_TRITON and not why_not(q, dropout):
        return flash
    return EAGER


def flash(
    q: Tensor, k: Tensor, v: Tensor, table: Tensor, mask: Tensor | None = None,
    packing: Packing | None = None, dropout: float = 0.0, offset: int = 0,
    scaling: float | None = None,
) -> Tensor:  # fmt: skip
    """The context by the Triton kernels, or by eager under masks that differ between queries.

    q [B, heads, Q, d]; k, v [B, heads, K, d]; of the table [2k + 1, d] only the shape is read; mask
    is added to the scores and broadcastable to [B, heads, Q, K]; with packing B is 1 and there is
    no mask; a rate of dropout is rounded to a 256th; offset is the position of the first query;
    scaling is 1/√d unless given.

    Raises ValueError where the device, the dtype or the head size do not fit the kernels.
    """
    bias = None
    if mask is not None:
        if mask.dim() != 4 or mask.shape[1:3] != (1, 1):
            return _eager_context(q, k, v, table, mask, None, dropout, offset, scaling)
        bias = mask[:, 0, 0].float().expand(q.shape[0], -1).contiguous()
    if reason := why_not(q, dropout):
        raise ValueError(f"flash attention can't: {reason}; attn_implementation='sdpa' finds a way")
    check_transforms()
    cu_seqlens, longest = (None, 0) if packing is None else packing[:2]
    scaling = q.shape[3] ** -0.5 if scaling is None else scaling
    seed = kernel_seed(q) if dropout else None
    context, _ = triton_attention(
        q, k, v, bias, cu_seqlens, table.shape[0] // 2, longest, dropout, offset, scaling, seed
    )
    return context


def _eager_context(*args: Any, **options: Any) -> Tensor:
    return eager_attention(*args, **options)[0]


EAGER = partial(on_padded, _eager_context)
TILED = partial(on_padded, tiled_attention)
"""Both take the arguments of `flash`."""


def eager_attention_forward(
    module: nn.Module | None, query: Tensor, key: Tensor, value: Tensor,
    attention_mask: Tensor | None, *, position_table: Tensor,
    fast: Callable[..., Tensor] = EAGER,
    packing: Packing | None = None, head_mask: Tensor | None = None,
    output_attentions: bool = False, dropout: float = 0.0, offset: int = 0,
    scaling: float | None = None, **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """An attention in the form that transformers calls: context [B, Q, heads, d] and the weights.

    query [B, heads, Q, d]; key, value [B, heads, K, d]; attention_mask is added to the scores.
    fast: the attention to use without head mask and if no weights are asked for. Only the
        definition has these two.
    offset: position of the first query.
    """
    if attention_mask is not None:
        attention_mask = additive(attention_mask, query.dtype)
    options: dict[str, Any] = {"dropout": dropout, "offset": offset, "scaling": scaling}
    operands, weights = (query, key, value, position_table), None
    if output_attentions or head_mask is not None:
        context, weights = eager_attention(*operands, attention_mask, head_mask, **options)
    else:
        context = fast(*operands, attention_mask, packing, **options)
    return context.transpose(1, 2), weights if output_attentions else None


class NezhaAttentionInterface(AttentionInterface):
    """Attentions that know positions on keys and values, which those of transformers do not.

    Another one is registered as a function with the arguments of `eager_attention_forward`, or as
    `partial(eager_attention_forward, fast=function)` with the arguments of `flash`.
    """

    _global_mapping = {}  # noqa: RUF012

    @classmethod
    def register(cls, key: str, value: Callable[..., Any]) -> None:
        super().register(key, value)
        # Without an entry transformers makes no causal mask for it.
        if key not in AttentionMaskInterface():
            AttentionMaskInterface.register(key, sdpa_mask)


NezhaAttentionInterface.register("sdpa", partial(eager_attention_forward, fast=sdpa))
if HAS_TRITON:
    NezhaAttentionInterface.register("flash", partial(eager_attention_forward, fast=flash))
ALL_ATTENTION_FUNCTIONS = NezhaAttentionInterface()
