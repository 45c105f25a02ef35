"""Attention with clipped, sinusoidal relative positions on keys and values, as pure functions.

NEZHA, https://arxiv.org/abs/1909.00204, section 2.1. With T the position table, p(i, j) =
clip(j - i, -k, k) + k for query position i and key position j, and d the head size:

    scores[i, j] = q[i] · (k[j] + T[p(i, j)]) / √d + mask[i, j]
    context[i] = Σ_j dropout(softmax(scores))[i, j] · (v[j] + T[p(i, j)])
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..cpu_fused_attention import FusedAttention, fused_attention_suits
from ..fused.dropout_rates import byte_tells
from ..observed import is_recorded
from .tiled import TiledAttention

try:
    from .triton_attention import flash_attention, why_not
except ImportError:  # no Triton: torch has none for CPUs and for some systems
    flash_attention = None


def position_table(head_size: int, max_relative_position: int) -> Tensor:
    """T, float32 [2k + 1, d]: row p holds sin(p·w_i), cos(p·w_i) interleaved, w_i = 10000^(-2i/d).

    Computed in float32 step by step as transformers 4.40.2 does it, because at large p the
    rounding of w_i shows in the fifth digit and public weights were trained with it.
    """
    row = torch.arange(2 * max_relative_position + 1, dtype=torch.float32)
    even = torch.arange(0, head_size, 2, dtype=torch.float32)
    angle = row[:, None] * torch.exp(even * (-math.log(10000.0) / head_size))
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


def table_rows(queries: int, keys: int, offset: int, clip: int, device: torch.device) -> Tensor:
    """p(i, j), int64 [queries, keys]; the first query stands at position `offset`."""
    distance = (
        torch.arange(keys, device=device) - torch.arange(queries, device=device)[:, None] - offset
    )
    return distance.clamp(-clip, clip) + clip


def eager_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    mask: Tensor | None = None,
    head_mask: Tensor | None = None,
    dropout: float = 0.0,
    offset: int = 0,
) -> tuple[Tensor, Tensor]:
    """The definition, step by step.

    q [B, heads, Q, d]; k, v [B, heads, K, d]; table [2k + 1, d]; mask is added to the scores and
    head_mask multiplied into the probabilities, both broadcastable to [B, heads, Q, K].
    Returns context [B, heads, Q, d] and the dropped probabilities [B, heads, Q, K].
    """
    table = table.to(q.dtype)
    rows = table_rows(q.shape[2], k.shape[2], offset, table.shape[0] // 2, q.device)
    rows = rows.expand(q.shape[0], q.shape[1], -1, -1)
    scores = q @ k.transpose(2, 3) + (q @ table.T).gather(3, rows)
    scores = scores / math.sqrt(q.shape[3])
    if mask is not None:
        scores = scores + mask
    weights = nn.functional.dropout(scores.softmax(-1), dropout)
    if head_mask is not None:
        weights = weights * head_mask
    mass = weights.new_zeros(*q.shape[:3], table.shape[0]).scatter_add(3, rows, weights)
    return weights @ v + mass @ table, weights


def flash_or_eager_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    offset: int = 0,
) -> Tensor:
    """The Triton kernels; masks that differ from query to query are none of theirs.

    Raises:
        ValueError: the device, the type or the head size is none of theirs either.
    """
    if mask is not None and (mask.dim() != 4 or mask.shape[1:3] != (1, 1)):
        return eager_attention(q, k, v, table, mask, None, dropout, offset)[0]
    bias = None
    if mask is not None:
        bias = mask[:, 0, 0].float().expand(q.shape[0], -1).contiguous()
    return flash_attention(q, k, v, table, bias, dropout=dropout, offset=offset)


def sdpa_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    offset: int = 0,
) -> Tensor:
    """`eager_attention` without the weights, by whatever is fastest for the operands.

    On a CPU that is tile by tile, on a GPU the Triton kernels; both in memory linear in length.
    """
    if not is_recorded():
        tiled = q.device.type == "cpu" and (not dropout or byte_tells(dropout))
        if tiled and not torch.compiler.is_compiling():
            fused = fused_attention_suits(q, k, v, table, mask)
            function = FusedAttention if fused else TiledAttention
            return function.apply(q, k, v, table.to(q.dtype), mask, dropout, offset)
        if _flash_suits("sdpa", q, dropout):
            return flash_or_eager_attention(q, k, v, table, mask, dropout, offset)
    return eager_attention(q, k, v, table, mask, None, dropout, offset)[0]


ATTENTIONS: dict[str, Callable[..., Tensor]] = {"sdpa": sdpa_attention}
if flash_attention:
    ATTENTIONS["flash"] = flash_or_eager_attention


def attend(
    implementation: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    mask: Tensor | None = None,
    head_mask: Tensor | None = None,
    dropout: float = 0.0,
    offset: int = 0,
    need_weights: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Context [B, heads, Q, d] by the named implementation, and the weights where asked for.

    Weights and head masks exist only in `eager_attention`, which then serves any name.
    """
    if mask is not None and mask.dtype != q.dtype:
        # The lowest float32 is -inf in half precision, and a row of it no longer uniform.
        lowest = max(torch.finfo(q.dtype).min, torch.finfo(mask.dtype).min)
        mask = mask.clamp(min=lowest).to(q.dtype)
    if implementation == "eager" or need_weights or head_mask is not None:
        context, weights = eager_attention(q, k, v, table, mask, head_mask, dropout, offset)
        return context, weights if need_weights else None
    return ATTENTIONS[implementation](q, k, v, table, mask, dropout, offset), None


class Packing(NamedTuple):
    """Where texts lie that are packed end to end, T tokens in all."""

    cu_seqlens: Tensor
    """int32 [N + 1]; text n spans tokens cu_seqlens[n] to cu_seqlens[n + 1]."""
    longest: int
    """Tokens of the longest text at most."""
    texts: int
    places: Tensor | None
    """int64 [T], index of each token among N · longest; None where T is as much"""
    mask: Tensor | None
    """float32 [N, 1, 1, longest] to add to scores: 0 where there is a token"""

    @classmethod
    def of(cls, cu_seqlens: Tensor, tokens: int, longest: int | None = None) -> "Packing":
        """Without `longest` it is read from the device, which waits for it."""
        lengths = cu_seqlens.diff()
        longest = int(lengths.max()) if longest is None else longest
        if tokens == len(lengths) * longest:
            return cls(cu_seqlens.int(), longest, len(lengths), None, None)
        texts = torch.arange(len(lengths), device=lengths.device)
        gaps = (texts * longest - cu_seqlens[:-1]).repeat_interleave(lengths, output_size=tokens)
        places = torch.arange(tokens, device=lengths.device) + gaps
        outside = torch.arange(longest, device=lengths.device) >= lengths[:, None]
        mask = outside.float() * torch.finfo(torch.float32).min
        return cls(cu_seqlens.int(), longest, len(lengths), places, mask[:, None, None])


def attend_packed(
    implementation: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    table: Tensor,
    packing: Packing,
    dropout: float = 0.0,
) -> Tensor:
    """Context of texts laid end to end, each attending to itself alone; q, k, v [1, heads, T, d].

    The Triton kernels take them as they lie. Other implementations get them padded, which is
    little beside the linear layers: those see no padding.
    """
    if _flash_suits(implementation, q, dropout):
        cu_seqlens, longest = packing.cu_seqlens, packing.longest
        return flash_attention(q, k, v, table, None, cu_seqlens, longest, dropout)
    q, k, v = (_pad(x, packing) for x in (q, k, v))
    context, _ = attend(implementation, q, k, v, table, packing.mask, dropout=dropout)
    tokens = context.transpose(1, 2).flatten(0, 1)
    if packing.places is not None:
        tokens = _Unpad.apply(tokens, packing.places)
    return tokens.transpose(0, 1).unsqueeze(0)


def _pad(x: Tensor, packing: Packing) -> Tensor:
    """[1, heads, T, d] → [N, heads, longest, d]."""
    # Not x[0], whose gradient would be a copy among zeros.
    tokens = x.squeeze(0).transpose(0, 1)
    if packing.places is not None:
        padding = tokens.new_zeros(packing.texts * packing.longest, *tokens.shape[1:])
        tokens = padding.index_copy(0, packing.places, tokens)
    return tokens.unflatten(0, (packing.texts, packing.longest)).transpose(1, 2)


class _Unpad(torch.autograd.Function):
    """Rows `places` of x. They are distinct, so the gradient is a copy and not a sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.shape = x.shape
        return x.index_select(0, places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (places,) = ctx.saved_tensors
        return grad.new_zeros(ctx.shape).index_copy_(0, places, grad), None


def _flash_suits(implementation: str, q: Tensor, dropout: float) -> bool:
    """Asked for by name it always does: what it can't do is then an error."""
    automatic = implementation == "sdpa" and q.device.type == "cuda" and flash_attention is not None
    return implementation == "flash" or (automatic and not why_not(q, dropout))
