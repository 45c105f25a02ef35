"""Matrix products in float32 on CPUs, by the library that is faster there."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F


def quicken_products() -> None:
    """Let oneDNN multiply float32 matrices on AMD's CPUs with AVX-512, in this process.

    torch leaves them to MKL, which uses half the width of such a CPU's vectors: measured as 190
    GFLOP/s against 400 on two cores (`tests/benchmarks/step.py`). Where bfloat16 is allowed for
    float32 products torch asks oneDNN, and that has no other arithmetic than float32 for a CPU
    without tile registers (https://docs.pytorch.org/docs/stable/notes/mkldnn.html). What it does
    here is looked at: if products come out rounded, MKL keeps them.
    """
    if _is_chosen() or not _is_wide_amd():
        return
    torch.set_float32_matmul_precision("medium")
    if not _products_are_exact():
        torch.set_float32_matmul_precision("highest")


def _is_chosen() -> bool:
    """Whether somebody set the precision of products, by either of torch's two settings."""
    try:
        if torch.get_float32_matmul_precision() != "highest":
            return True
    except RuntimeError:  # by the newer one, which torch does not mix with this
        return True
    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    return bool(matmul.fp32_precision != "none")


def _is_wide_amd() -> bool:
    about: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    amd = "AMD" in about.get("cpu_name", "")
    return amd and about.get("avx512_f", False) and not about.get("amx_tile", True)


def _products_are_exact() -> bool:
    """Whether factors of 15 bits, whose sums float32 holds, are multiplied without rounding."""
    depth, value = 256, 1 + 2**-14
    for rows, columns, batch in ((64, 64, 1), (512, 768, 1), (130, 70, 4)):
        x = torch.full((batch, rows, depth), value, dtype=torch.float32, device="cpu")
        ones = torch.ones(batch, depth, columns, dtype=torch.float32, device="cpu")
        exact = x.new_full((batch, rows, columns), depth * value)
        products = (
            x @ ones,
            x @ ones.mT.contiguous().mT,
            x.mT.contiguous().mT @ ones,
            (ones.mT @ x.mT).mT,
            torch.zeros_like(exact).baddbmm_(x, ones),
            F.linear(x, ones[0].mT, torch.zeros_like(exact[0, 0])),
        )
        if not all(torch.equal(product, exact) for product in products):
            return False
    return True
