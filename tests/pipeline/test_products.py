"""Products in float32 stay products in float32, whichever library computes them."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from pipeline import products

AMD = {"cpu_name": "AMD EPYC", "avx512_f": True, "amx_tile": False}


@pytest.fixture(autouse=True)
def _undone() -> Iterator[None]:
    """Of torch's two settings; the older one sets both."""
    before = torch.get_float32_matmul_precision(), torch.backends.mkldnn.matmul.fp32_precision
    torch.set_float32_matmul_precision("highest")
    torch.backends.mkldnn.matmul.fp32_precision = "none"
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.mkldnn.matmul.fp32_precision = before[1]


def test_products_are_as_exact_as_before() -> None:
    products.quicken_products()
    for rows, depth, columns, batch in ((64, 64, 512, (4,)), (512, 768, 3072, ()), (3, 5, 7, ())):
        x = torch.randn(*batch, rows, depth)
        y = torch.randn(*batch, depth, columns)
        for a, b in ((x, y), (y.mT, x.mT), (x, y.mT.contiguous().mT), (x.mT.contiguous().mT, y)):
            error = (a @ b).double() - a.double() @ b.double()
            assert (error.abs() <= 1e-6 * (a.abs() @ b.abs())).all()


@pytest.mark.parametrize(
    ("about", "exact", "expected"),
    [
        (AMD, True, "medium"),
        (AMD, False, "highest"),
        (AMD | {"avx512_f": False}, True, "highest"),
        (AMD | {"amx_tile": True}, True, "highest"),
        (AMD | {"cpu_name": "Intel(R) Xeon(R)"}, True, "highest"),
        ({}, True, "highest"),
    ],
)
def test_only_where_it_is_faster_and_exact(monkeypatch, about, exact, expected) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: about)
    monkeypatch.setattr(products, "_products_are_exact", lambda: exact)
    products.quicken_products()
    assert torch.get_float32_matmul_precision() == expected


def test_what_was_chosen_is_left_alone(monkeypatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: AMD)
    torch.set_float32_matmul_precision("high")
    products.quicken_products()
    assert torch.get_float32_matmul_precision() == "high"


@pytest.mark.parametrize(
    ("backend", "precision"), [("mkldnn", "ieee"), ("mkldnn", "tf32"), ("cuda", "tf32")]
)
def test_what_was_chosen_the_newer_way_is_left_alone(backend: str, precision: str) -> None:
    """In a process of its own: torch raises where both ways meet."""
    code = f"""
import torch
from pipeline import products
torch.cpu.get_capabilities = lambda: {AMD}
torch.backends.{backend}.matmul.fp32_precision = "{precision}"
products.quicken_products()
print(torch.backends.{backend}.matmul.fp32_precision)
print(torch.backends.mkldnn.matmul.fp32_precision)
"""
    found = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert found == [precision, precision if backend == "mkldnn" else "none"]


def test_default_type_and_device_do_not_matter(monkeypatch) -> None:
    """float64 would be exact also where float32 is not."""
    types = []
    monkeypatch.setattr(torch, "equal", lambda x, y: types.append((x.dtype, x.device.type)) or True)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            assert products._products_are_exact()
    finally:
        torch.set_default_dtype(torch.float32)
    assert set(types) == {(torch.float32, "cpu")}


def test_rounding_is_noticed(monkeypatch) -> None:
    """Factors of bfloat16 instead of float32, in one of the orientations alone, too."""
    assert products._products_are_exact()
    exact = torch.Tensor.__matmul__

    def rounded(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return exact(a.bfloat16(), b.bfloat16()).float() if a.is_contiguous() else exact(a, b)

    monkeypatch.setattr(torch.Tensor, "__matmul__", rounded)
    assert not products._products_are_exact()
