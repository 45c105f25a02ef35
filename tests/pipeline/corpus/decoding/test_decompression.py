"""Compressed files that are whole, padded, in several frames, cut short, or followed by garbage."""

import bz2
import gzip
import io
import lzma
import random

import pytest
import zstandard

from pipeline.corpus.decoding.decompression import Damage, decompressed
from tests.pipeline.corpus import raw

COMPRESS = {
    "gzip": (".gz", gzip.compress),
    "bz2": (".bz2", bz2.compress),
    "xz": (".xz", lzma.compress),
    "zstd": (".zst", zstandard.ZstdCompressor(write_checksum=True).compress),
}
DRAW = random.Random(0)
TEXT = "".join(chr(DRAW.randrange(0x4E00, 0x9FA5)) for _ in range(20_000)).encode()
each_compression = pytest.mark.parametrize("kind", COMPRESS)


def read(data: bytes, kind: str) -> bytes:
    return b"".join(decompressed(io.BytesIO(data), kind))


@each_compression
def test_frames_and_zero_padding(kind):
    frame = COMPRESS[kind][1](TEXT)
    empty = COMPRESS[kind][1](b"")
    assert read(frame, kind) == TEXT
    assert read(frame + empty + frame, kind) == TEXT * 2
    assert read(frame + bytes(512) + frame + bytes(8192 * 3), kind) == TEXT * 2
    assert read(empty, kind) == read(b"", kind) == b""


def test_the_old_format_of_xz_and_long_windows_of_zstd():
    assert read(lzma.compress(TEXT, lzma.FORMAT_ALONE), "xz") == TEXT
    long = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
    assert read(zstandard.ZstdCompressor(compression_params=long).compress(TEXT), "zstd") == TEXT


@each_compression
def test_a_zip_bomb_is_read_in_parts(kind):
    size = 1 << 26
    bomb = COMPRESS[kind][1](bytes(size))
    assert len(bomb) < size / 900
    parts = [len(part) for part in decompressed(io.BytesIO(bomb), kind)]
    assert sum(parts) == size
    assert max(parts) <= 1 << 24


@each_compression
@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_a_file_cut_short_is_damaged(kind, share):
    frame = COMPRESS[kind][1](TEXT)
    with pytest.raises(Damage, match="ends within compressed data") as caught:
        read(frame[: int(len(frame) * share)], kind)
    assert not caught.value.whole


@each_compression
def test_garbage_after_the_data_is_told_from_damage_in_it(kind):
    frame = COMPRESS[kind][1](TEXT)
    with pytest.raises(Damage, match="not compressed follow the data") as caught:
        read(frame + b"garbage " * 5000, kind)
    assert caught.value.whole
    with pytest.raises(Damage) as caught:
        read(b"garbage\0" * 5000, kind)
    assert not caught.value.whole
    broken = bytearray(frame)
    broken[len(broken) // 2 : len(broken) // 2 + 200] = bytes(200)
    with pytest.raises(Damage) as caught:
        read(bytes(broken), kind)
    assert not caught.value.whole


@each_compression
@pytest.mark.parametrize("target", [16.0, 0.0005])
def test_garbage_costs_no_document_and_is_said(tmp_path, kind, target):
    suffix, compress = COMPRESS[kind]
    texts = [f"第{n}篇。" for n in range(300)]
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(compress("\n\n".join(texts).encode()) + b"garbage")
    documents, (drop,) = raw.read(path, shard_megabytes=target)
    assert [document.text for document in documents] == texts
    assert (drop.reason, drop.size) == ("damaged_file", len(b"garbage"))
    assert f"{path}: byte {path.stat().st_size - drop.size} of " in drop.text


@each_compression
def test_all_bytes_of_a_file_that_is_not_compressed_count_as_bad(tmp_path, kind):
    path = tmp_path / f"a.jsonl{COMPRESS[kind][0]}"
    path.write_bytes(data := b"\x05\0" + raw.jsonl(["第一篇", "第二篇"]))
    documents, (drop,) = raw.read(path)
    assert (documents, drop.reason, drop.size) == ([], "damaged_file", len(data))
    assert f"{path}: byte 0 of {len(data)}: damaged" in drop.text


@each_compression
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.jsonl.xz"])
@pytest.mark.parametrize("target", [16.0, 0.0005])
def test_the_data_and_not_the_name_tells_the_compression(tmp_path, kind, name, target):
    texts = [f"第{n}篇，{random.Random(n).random()}" for n in range(300)]
    (tmp_path / name).write_bytes(COMPRESS[kind][1](raw.jsonl(texts)))
    (tmp_path / "plain.txt.bz2").write_bytes("\n\n".join(texts).encode())
    for file in (name, "plain.txt.bz2"):
        documents, drops = raw.read(tmp_path / file, shard_megabytes=target)
        assert [document.text for document in documents] == texts
        assert not drops


@each_compression
def test_the_last_row_of_a_table_that_is_cut_short_is_dropped(tmp_path, kind):
    suffix, compress = COMPRESS[kind]
    rows = [f"{n},{random.Random(n).random()}" for n in range(20_000)]
    data = compress("\n".join(["id,text", *rows]).encode())
    path = tmp_path / f"a.csv{suffix}"
    path.write_bytes(data[: len(data) // 2])
    documents, (drop,) = raw.read(path)
    texts = [row.partition(",")[2] for row in rows]
    assert [document.text for document in documents] == texts[: len(documents)]
    assert drop.reason == "damaged_file"
