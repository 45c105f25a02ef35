"""Writing input files, and reading them with the product's readers."""

import bz2
import gzip
import json
import lzma
import random
from pathlib import Path

import zstandard

from pipeline.corpus.records import Document, Drop
from pipeline.corpus.text.parsing import documents
from pipeline.corpus.text.reading import Chunk, read_unit
from pipeline.corpus.text.sources import list_sources
from pipeline.corpus.text.units import plan_units
from pipeline.settings.corpus import CorpusSettings

WORDS = [
    "我们",
    "学习",
    "中国",
    "经济",
    "发展",
    "今天",
    "天气",
    "很好",
    "他们",
    "来到",
    "北京",
    "大学",
    "图书馆",
    "看书",
    "的",
    "了",
    "是",
]
COMPRESS = {
    "": lambda data: data,
    ".gz": lambda data: gzip.compress(data, mtime=0),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.compress,
}


def jsonl(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts).encode()


def write(path: Path, data: bytes) -> Path:
    """Write bytes, compressed by the suffix of the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(COMPRESS.get(path.suffix, COMPRESS[""])(data))
    return path


def read(*inputs: Path, **settings: object) -> tuple[list[Document], list[Drop]]:
    """All documents and drops of inputs, in order."""
    corpus = CorpusSettings(inputs=tuple(map(str, inputs)), **settings)
    kept, dropped = [], []
    for unit in plan_units(list_sources(corpus.inputs, corpus), corpus):
        for item in read_unit(unit, corpus):
            if not isinstance(item, Chunk):
                dropped.extend(item.damage)
                continue
            for block in item.blocks:
                for found in documents(block, corpus.text_field):
                    (kept if isinstance(found, Document) else dropped).append(found)
    return kept, dropped


def texts(*inputs: Path, **settings: object) -> list[str]:
    return [document.text for document in read(*inputs, **settings)[0]]


def write_texts(number: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)

    def sentence() -> str:
        return "".join(draw.choices(WORDS, k=draw.randint(3, 9))) + "。"

    return [
        "\n".join("".join(sentence() for _ in range(3)) for _ in range(draw.randint(1, 4)))
        + f"第{place}篇。"
        for place in range(number)
    ]
