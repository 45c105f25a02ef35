"""Matrix products in float32 on CPUs, by the library that is faster there."""

from __future__ import annotations

from typing import Any

import torch


def quicken_products() -> None:
    """Let oneDNN multiply float32 matrices on AMD's CPUs with AVX-512, in this process.

    torch leaves them to MKL, which uses half the width of such a CPU's vectors: measured as 190
    GFLOP/s against 400 on two cores (`tests/benchmarks/step.py`). Where bfloat16 is allowed for
    float32 products torch asks oneDNN, and that has no other arithmetic than float32 for a CPU
    without tile registers (https://docs.pytorch.org/docs/stable/notes/mkldnn.html). What it does
    here is looked at: if products come out rounded, MKL keeps them.
    """
    if torch.get_float32_matmul_precision() != "highest" or not _is_wide_amd():
        return
    torch.set_float32_matmul_precision("medium")
    if not _products_are_exact():
        torch.set_float32_matmul_precision("highest")


def _is_wide_amd() -> bool:
    about: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    amd = "AMD" in about.get("cpu_name", "")
    return amd and about.get("avx512_f", False) and not about.get("amx_tile", True)


def _products_are_exact() -> bool:
    """Whether factors of 15 bits, whose sums float32 holds, are multiplied without rounding."""
    depth, value = 256, 1 + 2**-14
    for rows, columns, batch in ((64, 64, ()), (512, 768, ()), (130, 70, (4,))):
        x = torch.full((*batch, rows, depth), value)
        ones = torch.ones(*batch, depth, columns)
        products = (
            x @ ones,
            x @ ones.mT.contiguous().mT,
            x.mT.contiguous().mT @ ones,
            (ones.mT @ x.mT).mT,
        )
        exact = torch.full((*batch, rows, columns), depth * value)
        if not all(torch.equal(product, exact) for product in products):
            return False
    return True
