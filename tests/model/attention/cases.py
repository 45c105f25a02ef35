"""Attention written out in float64, and operands for its implementations."""

import math

import torch

from model.attention.definition import position_table
from model.attention.interface import ALL_ATTENTION_FUNCTIONS, eager_attention_forward


def attend(implementation, q, k, v, table, mask=None, **options):
    """Context [B, heads, Q, d] and weights by the attention of this name."""
    forward = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
    context, weights = forward(None, q, k, v, mask, position_table=table, **options)
    return context.transpose(1, 2), weights


def definition(q, k, v, clip, mask=None, offset=0, kept=1.0):
    """The paper's formulas with a vector for every pair of positions.

    kept: what dropout multiplies the probabilities with.
    """
    q, k, v = (x.double() for x in (q, k, v))
    i, j = torch.meshgrid(torch.arange(q.shape[2]), torch.arange(k.shape[2]), indexing="ij")
    rows = (j - i - offset).clamp(-clip, clip) + clip
    angles = rows[..., None] / 10000 ** (torch.arange(0, q.shape[3], 2).double() / q.shape[3])
    relative = torch.stack([angles.sin(), angles.cos()], -1).flatten(2)
    scores = q @ k.mT + torch.einsum("bhid,ijd->bhij", q, relative)
    scores = scores / math.sqrt(q.shape[3])
    if mask is not None:
        scores = scores + mask.double()
    weights = scores.softmax(-1) * kept
    return weights @ v + torch.einsum("bhij,ijd->bhid", weights, relative)


def operands(queries, keys, batch=2, heads=3, d=8, dtype=torch.float32, seed=0):
    random = torch.Generator("cpu").manual_seed(seed)
    lengths = (queries, keys, keys)
    # In memory as projections leave them: the heads of a token side by side.
    shapes = [(batch, n, heads, d) for n in lengths]
    made = [torch.randn(shape, generator=random, device="cpu") for shape in shapes]
    device = torch.get_default_device()
    return [x.to(device, dtype).transpose(1, 2).requires_grad_() for x in made]


def masks(kind, batch, queries, keys, seed=0):
    random = torch.Generator("cpu").manual_seed(seed)
    lowest = torch.finfo(torch.float32).min
    if kind == "none":
        return None
    shape = (batch, 1, 1, keys) if kind == "padding" else (batch, 1, queries, keys)
    mask = (torch.rand(shape, generator=random, device="cpu") < 0.3).float() * lowest
    if kind == "rows":
        mask[:, :, 0] = lowest
    return mask.to(torch.get_default_device())


def probed(context, inputs):
    """A context, and the gradients of a fixed mixture of its elements."""
    probe = torch.cos(torch.arange(context.numel(), dtype=torch.float64)).view(context.shape)
    return context, *torch.autograd.grad((context * probe).sum(), inputs)


def results(implementation, q, k, v, clip, mask=None, offset=0, **kwargs):
    table = position_table(q.shape[3], clip)
    context, _ = attend(implementation, q, k, v, table, mask=mask, offset=offset, **kwargs)
    return probed(context, [q, k, v])


def expected(q, k, v, clip, mask=None, offset=0):
    return probed(definition(q, k, v, clip, mask, offset), [q, k, v])


def assert_close(found, wanted, tolerance=1e-5):
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.double(), other.double(), rtol=tolerance, atol=tolerance)


def errors(implementation, q, k, v, clip, mask=None):
    """Root mean squares of the differences from eager attention in float64."""
    wide = [x.detach().double().requires_grad_() for x in (q, k, v)]
    pairs = zip(
        results(implementation, q, k, v, clip, mask),
        results("eager", *wide, clip, mask),
        strict=True,
    )
    return [(one.double() - other).square().mean().sqrt().item() for one, other in pairs]


def kept_for_backward(implementation, length):
    """Bytes that attention over `length` tokens saves, divided by those of its queries."""
    q, k, v = operands(length, length, batch=1, heads=2, d=16)
    kept = []

    def pack(x: torch.Tensor) -> torch.Tensor:
        kept.append(x.untyped_storage().nbytes())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        attend(implementation, q, k, v, position_table(16, 64), dropout=0.1)
    return sum(kept) / q.untyped_storage().nbytes()
