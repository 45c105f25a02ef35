import os
from typing import get_args

import fsspec
import pytest

from pipeline.corpus.text.blocks import BOUNDARIES, Block
from pipeline.corpus.text.csv_rows import DELIMITERS
from pipeline.corpus.text.parsing import documents
from pipeline.corpus.text.sources import FORMATS, list_sources, sign_sources
from pipeline.corpus.text.units import plan_units
from pipeline.errors import CorpusError
from pipeline.settings.corpus import CorpusSettings
from tests.pipeline.corpus import raw

NAMED_FORMATS = get_args(CorpusSettings.model_fields["format"].annotation)


def names(*inputs, **settings):
    corpus = CorpusSettings(**settings)
    return [source.name for source in list_sources(list(map(str, inputs)), corpus)]


def signed(place):
    """The signed first file behind an input."""
    return sign_sources(list_sources([str(place)], CorpusSettings()))[0]


def test_a_folder_gives_its_files_of_known_kind_in_order(tmp_path):
    for name in ("b/2.jsonl", "a/1.txt.gz", "wiki/AA/wiki_00", "notes.pdf", ".hidden.txt"):
        raw.write(tmp_path / name, b"x")
    assert names(tmp_path) == ["0/a/1.txt.gz", "0/b/2.jsonl", "0/wiki/AA/wiki_00"]


def test_parts_of_a_wikipedia_dump_are_known_by_their_names(tmp_path):
    parts = [f"zhwiki-20240601-pages-articles{part}" for part in (1, "-multistream2")]
    for part, suffix in zip(parts, (".xml-p1p187712.bz2", ".xml-p187713p630160"), strict=True):
        raw.write(tmp_path / f"{part}{suffix}", b"<mediawiki/>")
    raw.write(tmp_path / "zhwiki-20240601-pages-articles-multistream-index1.txt-p1p9", b"1:2:x")
    sources = list_sources([str(tmp_path)], CorpusSettings())
    assert [(each.format, each.compression) for each in sources] == [
        ("wikidump", ""),
        ("wikidump", "bz2"),
    ]


@pytest.mark.parametrize("form", sorted({*FORMATS.values(), *NAMED_FORMATS} - {"auto"}))
def test_every_format_has_a_setting_a_reader_and_a_record_boundary(form, tmp_path):
    raw.write(tmp_path / "a", b"x")
    (source,) = list_sources([str(tmp_path / "a")], CorpusSettings(format=form))
    documents(Block(source, 0, "utf-8", b"", 0, 0), "text")
    assert form in (*BOUNDARIES, *DELIMITERS, "parquet", "arrow")


def test_names_do_not_depend_on_where_the_inputs_lie(tmp_path):
    for place in ("here", "there/deeper"):
        raw.write(tmp_path / place / "x" / "1.jsonl", b"{}\n")
    first, second = (signed(tmp_path / place) for place in ("here", "there/deeper"))
    assert (first.name, first.signature) == (second.name, second.signature)


def test_a_text_is_the_same_on_a_disk_and_in_an_object_store(tmp_path, monkeypatch):
    """So a corpus that moves is not prepared again."""
    text = raw.jsonl(["同一段文字"])
    local = raw.write(tmp_path / "x" / "1.jsonl", text).parent
    fsspec.filesystem("memory").pipe_file("/moved/x/1.jsonl", text)

    near, far = signed(local), signed("memory://moved/x")
    assert (near.name, near.signature) == (far.name, far.signature)
    monkeypatch.setattr("pipeline.corpus.text.sources.HASHED_BYTES", 10)
    # A large text is not fetched to be signed.
    near, far = signed(local), signed("memory://moved/x")
    assert near.signature != far.signature


def test_a_signature_changes_with_the_content(tmp_path):
    path = raw.write(tmp_path / "a.jsonl", b'{"text": "1"}\n')
    before = signed(path).signature
    raw.write(path, b'{"text": "2"}\n')
    assert signed(path).signature != before


def test_a_signature_of_large_inputs_contains_the_modification_time(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.corpus.text.sources.HASHED_BYTES", 10)
    path = raw.write(tmp_path / "a.jsonl", b'{"text": "1"}\n')
    before = signed(path).signature
    assert signed(path).signature == before
    os.utime(path, (1, 1))
    assert signed(path).signature != before


def test_globs_and_urls(tmp_path):
    raw.write(tmp_path / "1.jsonl", b"x")
    raw.write(tmp_path / "2.txt", b"x")
    assert names(tmp_path / "*.txt") == ["0/2.txt"]
    fsspec.filesystem("memory").pipe_file("/bucket/x/1.jsonl", raw.jsonl(["远处的文字"]))
    assert names("memory://bucket/x") == ["0/1.jsonl"]
    assert raw.texts("memory://bucket/x") == ["远处的文字"]


def test_pyarrow_opens_what_fsspec_has_no_package_for(tmp_path, monkeypatch):
    raw.write(tmp_path / "a" / "1.jsonl.gz", raw.jsonl(["远处的文字"]))
    monkeypatch.setattr("pipeline.files.storage._missing_package", lambda scheme: "s3fs")
    assert raw.texts(f"file://{tmp_path}/a") == ["远处的文字"]
    with pytest.raises(CorpusError, match=r"xyz://b/c: s3fs"):
        raw.texts("xyz://b/c")


@pytest.mark.parametrize(
    ("name", "form", "compression"),
    [
        ("a.jsonl", "jsonl", ""),
        ("a.TXT", "lines", ""),
        ("a.json.zst", "jsonl", "zstd"),
        ("a.parquet", "parquet", ""),
        ("zhwiki-pages-articles.xml.bz2", "wikidump", "bz2"),
        ("wiki_07.xz", "wikiextractor", "xz"),
    ],
)
def test_the_name_shows_format_and_compression(tmp_path, name, form, compression):
    raw.write(tmp_path / name, b"x")
    (source,) = list_sources([str(tmp_path / name)], CorpusSettings())
    assert (source.format, source.compression) == (form, compression)


def test_a_named_format_takes_all_files(tmp_path):
    raw.write(tmp_path / "part-000", b"x")
    assert names(tmp_path, format="lines") == ["0/part-000"]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "corpus.inputs is empty"),
        (["missing.jsonl"], "missing.jsonl: no such file"),
        (["."], "no file of a known kind"),
        (["nowhere://x/y"], "nowhere"),
    ],
)
def test_an_error_names_unusable_inputs(tmp_path, monkeypatch, inputs, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CorpusError, match=message):
        list_sources(inputs, CorpusSettings())


def test_a_url_that_leads_through_an_archive_is_refused(tmp_path):
    for text in ("zip://in.txt::/x/g.zip", "simplecache::s3://bucket/a.txt"):
        with pytest.raises(CorpusError, match=r"URLs with `::`.*unpack"):
            list_sources([text], CorpusSettings())
    raw.write(tmp_path / "a::b.txt", b"x")
    assert len(list_sources([str(tmp_path / "a::b.txt")], CorpusSettings())) == 1


def test_only_empty_files_are_an_error(tmp_path):
    raw.write(tmp_path / "a.jsonl", b"")
    with pytest.raises(CorpusError, match="all 1 files are empty"):
        list_sources([str(tmp_path)], CorpusSettings())


def test_large_plain_files_are_cut_and_small_ones_grouped(tmp_path):
    raw.write(tmp_path / "big.jsonl", b"x" * 2500)
    for number in range(4):
        raw.write(tmp_path / f"small{number}.txt", b"x" * 400)
    raw.write(tmp_path / "z.jsonl.gz", bytes(range(256)) * 10)
    corpus = CorpusSettings(shard_megabytes=0.001)
    units = plan_units(list_sources([str(tmp_path)], corpus), corpus)
    plan = [[(r.source.name[2:], r.start, r.end) for r in unit.ranges] for unit in units]
    assert plan[:3] == [
        [("big.jsonl", start, end)] for start, end in ((0, 833), (833, 1666), (1666, 2500))
    ]
    assert [[name for name, _, _ in unit] for unit in plan[3:5]] == [
        ["small0.txt", "small1.txt"],
        ["small2.txt", "small3.txt"],
    ]
    assert [unit.stream for unit in units] == [False] * 5 + [True]
    assert [unit.number for unit in units] == list(range(6))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_pointers_of_git_lfs_are_refused_with_what_to_do(tmp_path, name):
    raw.write(tmp_path / "b.jsonl", raw.jsonl(["一段文字"]))
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 123\n"
    (tmp_path / name).write_bytes(pointer)
    for text in (tmp_path, tmp_path / name):
        with pytest.raises(CorpusError, match=rf"{name}; fetch it with `git lfs pull`"):
            list_sources([str(text)], CorpusSettings())
    assert names(tmp_path / "b*") == ["0/b.jsonl"]
