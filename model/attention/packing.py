"""Sequences packed end to end, and a way to call attentions that need padded sequences."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Packing(NamedTuple):
    """The places of N sequences that are packed end to end, T tokens in all."""

    cu_seqlens: Tensor
    """int32 [N + 1]; sequence n spans tokens cu_seqlens[n] to cu_seqlens[n + 1]."""
    longest: int
    """An upper bound on the tokens of a sequence"""
    sequences: int
    places: Tensor | None
    """int64 [T], index of each token among N · longest; None where T equals N · longest"""
    mask: Tensor | None
    """float32 [N, 1, 1, longest] to add to scores: 0 where there is a token"""

    @classmethod
    def of(cls, cu_seqlens: Tensor, tokens: int, longest: int | None = None) -> "Packing":
        """If `longest` is None it is read from the device, which the host then waits for.

        Raises RuntimeError if cu_seqlens does not part the tokens; on a GPU with a later call.
        """
        lengths = cu_seqlens.diff()
        longest = int(lengths.max()) if longest is None else longest
        parted = (cu_seqlens[0] == 0) & (cu_seqlens[-1] == tokens)
        parted &= ((lengths > 0) & (lengths <= longest)).all()
        torch._assert_async(
            parted,
            "cu_seq_lens_q must rise from 0 to the number of tokens; no sequence may be empty, or "
            "longer than max_length_q",
        )
        if tokens == len(lengths) * longest:
            return cls(cu_seqlens.int(), longest, len(lengths), None, None)
        numbers = torch.arange(len(lengths), device=lengths.device)
        gaps = (numbers * longest - cu_seqlens[:-1]).repeat_interleave(lengths, output_size=tokens)
        places = torch.arange(tokens, device=lengths.device) + gaps
        outside = torch.arange(longest, device=lengths.device) >= lengths[:, None]
        mask = outside.float() * torch.finfo(torch.float32).min
        return cls(cu_seqlens.int(), longest, len(lengths), places, mask[:, None, None])

    def positions(self, tokens: int) -> Tensor:
        """int64 [T], the place of each of T tokens in its sequence."""
        starts = self.cu_seqlens[:-1].long()
        starts = starts.repeat_interleave(self.cu_seqlens.diff(), output_size=tokens)
        return torch.arange(tokens, device=starts.device) - starts

    def pad(self, x: Tensor) -> Tensor:
        """[1, heads, T, d] → [N, heads, longest, d]."""
        # Not x[0], whose gradient would be a copy among zeros.
        tokens = x.squeeze(0).transpose(0, 1)
        if self.places is not None:
            padding = tokens.new_zeros(self.sequences * self.longest, *tokens.shape[1:])
            tokens = padding.index_copy(0, self.places, tokens)
        return tokens.unflatten(0, (self.sequences, self.longest)).transpose(1, 2)

    def unpad(self, x: Tensor) -> Tensor:
        """[N, heads, longest, d] → [1, heads, T, d]."""
        tokens = x.transpose(1, 2).flatten(0, 1)
        if self.places is not None:
            tokens = tokens.index_select(0, self.places)
        return tokens.transpose(0, 1).unsqueeze(0)


def on_padded(
    attention: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, table: Tensor,
    mask: Tensor | None, packing: Packing | None, **options: Any,
) -> Tensor:  # fmt: skip
    """The context by an attention for padded sequences; without `packing` q, k, v are padded.

    Padding costs little here: the linear layers, which take most of the time, have none.
    """
    if packing is None:
        return attention(q, k, v, table, mask, **options)
    q, k, v = (packing.pad(x) for x in (q, k, v))
    mask = None if packing.mask is None else additive(packing.mask, q.dtype)
    return packing.unpad(attention(q, k, v, table, mask, **options))


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask to add to scores of another dtype."""
    if mask.dtype == dtype:
        return mask
    # The lowest float32 is -inf in half precision, and a row of it would give no numbers.
    return mask.clamp(min=max(torch.finfo(dtype).min, torch.finfo(mask.dtype).min)).to(dtype)
