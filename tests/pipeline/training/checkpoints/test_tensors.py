"""Files of tensors: readable by anybody's safetensors, hashed as written, complete or refused."""

import itertools

import pytest
import torch
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from pipeline.errors import CheckpointError
from pipeline.training.checkpoints import tensors


def write(folder, rank, parts, shape):
    named = {tensors.name_of("weights", "a.b", start): part for start, part in parts.items()}
    return tensors.write(folder / tensors.file_of(rank), named, {"a.b": shape})


def test_the_hash_is_that_of_the_file_and_others_can_read_it(tmp_path, monkeypatch):
    monkeypatch.setattr(tensors, "BLOCK", 13)
    part = torch.randn(100)
    digest = write(tmp_path, 3, {5: part, 200: torch.empty(0)}, [10, 11])
    file = tmp_path / "rank_00003.safetensors"
    assert digest == xxhash.xxh3_128_hexdigest(file.read_bytes())
    with safe_open(file, framework="pt") as opened:
        assert sorted(opened.keys()) == ["weights/a.b/200", "weights/a.b/5"]
        assert torch.equal(opened.get_tensor("weights/a.b/5"), part)


@given(
    cuts=st.lists(st.integers(0, 24), max_size=5),
    start=st.integers(0, 24),
    length=st.integers(0, 24),
)
def test_any_elements_are_read_however_they_were_split(tmp_path_factory, cuts, start, length):
    folder = tmp_path_factory.mktemp("split")
    whole, ends = torch.arange(24.0), sorted({0, 24, *cuts})
    for rank, (low, high) in enumerate(itertools.pairwise(ends)):
        write(folder, rank, {low: whole[low:high].clone()}, [4, 6])
    length = min(length, 24 - start)
    with tensors.Parameters(folder) as stored:
        assert stored.shapes == {"a.b": [4, 6]}
        assert torch.equal(stored.read("weights", "a.b"), whole)
        part = stored.read("weights", "a.b", start, length)
        assert torch.equal(part, whole[start : start + length])


def test_missing_elements_and_files_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"has no file rank_00000\.safetensors"):
        tensors.Parameters(tmp_path)
    write(tmp_path, 0, {0: torch.ones(3), 5: torch.ones(1)}, [6])
    with (
        tensors.Parameters(tmp_path) as stored,
        pytest.raises(CheckpointError, match=r"2 of 6 elements of weights of a\.b are in no file"),
    ):
        stored.read("weights", "a.b")
    (tmp_path / "rank_00001.safetensors").write_bytes(b"{")
    with pytest.raises(CheckpointError, match=r"rank_00001\.safetensors is unreadable"):
        tensors.Parameters(tmp_path)
