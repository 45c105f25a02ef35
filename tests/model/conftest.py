"""Settings for the tests of the network."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny tensors: a second thread only waits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_configure(config: pytest.Config) -> None:
    """Marks of transformers' own suite, which test_transformers_suite.py runs."""
    flash = ["flash_attn_test", *(f"flash_attn_{version}_test" for version in (2, 3, 4))]
    for mark in ["accelerate_tests", "torch_compile_test", *flash]:
        config.addinivalue_line("markers", f"{mark}: set by transformers' suite")
