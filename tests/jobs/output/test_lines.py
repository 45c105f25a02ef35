"""Where results may be written, and that nothing is lost there."""

import io
import os
import sys
import threading

import pytest

from jobs.output.lines import check_output, write
from pipeline.errors import ConfigError


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "out.jsonl"
    (tmp_path / "link").symlink_to(target)
    assert write(["好\n", "坏\n"], str(tmp_path / "link"), "x") == 2
    assert target.read_text("utf-8") == "好\n坏\n"
    assert (tmp_path / "link").is_symlink()

    def broken():
        yield "第一\n"
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        write(broken(), str(target), "x")
    assert target.read_text("utf-8") == "好\n坏\n"
    assert {path.name for path in tmp_path.iterdir()} == {"out.jsonl", "link"}
    assert write([], str(target), "x") == 0
    assert target.read_bytes() == b""


def test_a_pipe_is_written_and_not_replaced(tmp_path):
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_text("utf-8")))
    reader.start()
    assert write(["好\n"], str(pipe), "x") == 1
    reader.join()
    assert got == ["好\n"]
    assert pipe.is_fifo()


def test_what_cannot_be_written_or_would_be_lost_is_refused(tmp_path):
    source = tmp_path / "in.txt"
    source.write_text("好\n", "utf-8")
    (tmp_path / "link").symlink_to(source)
    for name, message in (
        ("no/out", "there is no folder"),
        (".", "is a folder"),
        ("out.jsonl.gz", "would not be compressed"),
        ("out.parquet", "would hold lines of JSON"),
        ("in.txt", "is the input"),
        ("link", "is the input"),
    ):
        with pytest.raises(ConfigError, match=f"^x: .*{message}"):
            check_output(str(tmp_path / name), "x", str(source))
    check_output("-", "x", str(source))
    check_output(str(tmp_path / "out"), "x", "-")
    with pytest.raises(ConfigError, match="Is a directory"):
        write(["好\n"], str(tmp_path), "x")


def test_standard_output_is_utf_8_and_may_be_closed(monkeypatch):
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, "ascii"))
    assert write(["好😀\n"], "-", "x") == 1
    assert printed.getvalue() == "好😀\n".encode()
    read, written = os.pipe()
    os.close(read)
    with os.fdopen(written, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        write(["好\n"] * 100_000, "-", "x")
