"""A folder appears whole, or stays as it was."""

import os
import shutil

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models

from pipeline.files.whole_folder import whole_folder
from tests.full_disk import largest_file


def test_the_new_folder_takes_the_place_of_the_old_one(tmp_path):
    target = tmp_path / "above" / "folder"
    for name in ("a", "b"):
        with whole_folder(target) as temporary:
            (temporary / name).touch()
            assert not (target / name).exists()
        assert [path.name for path in target.iterdir()] == [name]
    assert list(target.parent.iterdir()) == [target]


def test_a_kill_while_the_old_folder_is_deleted_leaves_the_new_one(tmp_path, monkeypatch):
    target = tmp_path / "folder"
    target.mkdir()
    (target / "old").touch()

    def killed(*_, **__):
        raise KeyboardInterrupt

    def replace():
        with whole_folder(target) as temporary:
            (temporary / "new").touch()
            monkeypatch.setattr(shutil, "rmtree", killed)

    with pytest.raises(KeyboardInterrupt):
        replace()
    assert [path.name for path in target.iterdir()] == ["new"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_folder_and_nothing_beside_it(tmp_path, error):
    target = tmp_path / "folder"
    target.mkdir()
    (target / "old").touch()

    def fail():
        with whole_folder(target) as temporary:
            (temporary / "new").touch()
            raise error

    with pytest.raises(error):
        fail()
    assert list(tmp_path.rglob("*")) == [target, target / "old"]


def test_two_that_make_it_at_once_do_not_meet(tmp_path):
    target = tmp_path / "folder"
    with whole_folder(target) as first, whole_folder(target) as second:
        (first / "a").touch()
        assert list(second.iterdir()) == []
    assert list(tmp_path.rglob("*")) == [target, target / "a"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o007, 0o660), (0o077, 0o600)])
def test_who_may_read_the_folder_may_read_its_files(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        with whole_folder(tmp_path / "folder") as temporary:
            (temporary / "inner").mkdir()
            save_file({"a": torch.zeros(1)}, temporary / "inner" / "model.safetensors")
            (temporary / "config.json").touch()
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "folder").rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files} == {mode}


def write(path):
    path.write_bytes(bytes(1000))


def write_tensors(path):
    save_file({"a": torch.zeros(1000)}, path)


def write_tokenizer(path):
    words = {str(number): number for number in range(1000)}
    Tokenizer(models.WordLevel(words, unk_token="0")).save(str(path))


@pytest.mark.parametrize("write", [write, write_tensors, write_tokenizer])
def test_a_full_disk_is_an_error_of_the_system_that_names_the_folder(tmp_path, write):
    """Libraries in Rust raise errors of their own, which ended `jobs.export` with a traceback."""

    def make():
        with whole_folder(tmp_path / "folder") as temporary, largest_file(100):
            write(temporary / "file")

    with pytest.raises(OSError, match="File too large") as caught:
        make()
    assert caught.value.filename == str(tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []
