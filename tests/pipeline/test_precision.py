"""`auto` is bf16 where the device computes in it."""

import pytest
import torch

from pipeline.precision import resolve_precision


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto(monkeypatch, has_bf16, expected):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)
    assert resolve_precision("auto", "cpu") == expected
    assert resolve_precision("auto", "cuda") == expected


def test_what_is_named_is_taken():
    assert resolve_precision("fp32", "cpu") == "fp32"
    assert resolve_precision("fp16", "cuda") == "fp16"
