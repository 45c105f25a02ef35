"""Cross-entropies of rows of scores and their gradients in one Triton kernel.

A score is read twice and its gradient is written over it: 6 bytes of memory traffic for a score in
half precision, where operators of torch with their float32 copies need ten times as much.
"""

try:
    import triton
    import triton.language as tl
except ImportError:
    # transformers requires every package that a model's code imports outside of a `try`.
    raise

import math

import torch
from torch import Tensor

LOG2E = tl.constexpr(math.log2(math.e))
LOWEST = tl.constexpr(-1e30)
"""Below every score; unlike -inf its difference from itself is a number."""
BLOCK = 4096
"""Scores that a program holds at a time"""


@triton.jit
def scores_at(scores_ptr, first, CLASSES: tl.constexpr, BLOCK: tl.constexpr):
    """BLOCK scores from number `first` on, LOWEST after the last, and their numbers."""
    columns = first + tl.arange(0, BLOCK)
    scores = tl.load(scores_ptr + columns, mask=columns < CLASSES, other=0.0).to(tl.float32)
    return tl.where(columns < CLASSES, scores, LOWEST), columns


@triton.jit
def row_losses_kernel(
    scores_ptr, labels_ptr, losses_ptr, right_ptr,
    WANTED: tl.constexpr, CLASSES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program computes one row. CLASSES is a constant, which tells how rows are aligned."""
    row = tl.program_id(0).to(tl.int64)
    scores_ptr += row * CLASSES
    label = tl.load(labels_ptr + row)
    highest = tl.full([BLOCK], LOWEST, tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    best = tl.zeros([BLOCK], tl.int32)
    for first in range(0, CLASSES, BLOCK):
        scores, columns = scores_at(scores_ptr, first, CLASSES, BLOCK)
        best = tl.where(scores > highest, columns, best)
        higher = tl.maximum(highest, scores)
        total *= tl.exp2((highest - higher) * LOG2E)
        total += tl.exp2((scores - higher) * LOG2E)
        highest = higher
    top = tl.max(highest, 0)
    # Of equal scores the first one counts, as in torch.argmax.
    first_best = tl.min(tl.where(highest == top, best, CLASSES), 0)
    total = tl.where(highest > LOWEST, total * tl.exp2((highest - top) * LOG2E), 0.0)
    lse = top + tl.log2(tl.sum(total, 0)) / LOG2E
    tl.store(losses_ptr + row, lse - tl.load(scores_ptr + label).to(tl.float32))
    tl.store(right_ptr + row, first_best == label)
    if WANTED:
        for first in range(0, CLASSES, BLOCK):
            scores, columns = scores_at(scores_ptr, first, CLASSES, BLOCK)
            slopes = tl.exp2((scores - lse) * LOG2E) - tl.where(columns == label, 1.0, 0.0)
            slopes = slopes.to(scores_ptr.dtype.element_ty)
            tl.store(scores_ptr + columns, slopes, mask=columns < CLASSES)


def triton_row_losses(
    scores: Tensor, labels: Tensor, wanted: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """`cross_entropy.row_losses` by the kernel: the gradients have the type of the scores."""
    count, classes = scores.shape
    losses = torch.empty(count, dtype=torch.float32, device=scores.device)
    right = torch.empty(count, dtype=torch.bool, device=scores.device)
    if count:
        with torch.cuda.device_of(scores):
            row_losses_kernel[(count,)](
                *(scores, labels.contiguous(), losses, right),
                WANTED=wanted, CLASSES=classes, BLOCK=BLOCK, num_warps=8,
            )  # fmt: skip
    return losses, right, scores
