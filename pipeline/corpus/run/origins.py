"""Where the documents of samples come from: the inputs are read again to find them."""

import contextlib
import functools

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.records import Document
from pipeline.corpus.run.inputs import list_inputs
from pipeline.corpus.run.names import SHARD
from pipeline.corpus.shards.format import Manifest
from pipeline.corpus.shards.reader import ShardFolder
from pipeline.corpus.text.parsing import documents
from pipeline.corpus.text.reading import Chunk, read_unit
from pipeline.corpus.text.units import Unit, plan_units
from pipeline.errors import CorpusError, StorageError
from pipeline.settings.corpus import CorpusSettings


def origins_of(
    reader: ShardFolder, numbers: NDArray[np.int64], document_numbers: NDArray[np.uint64]
) -> dict[int, str]:
    """Where documents begin, as `file:byte` (Parquet: `file:row`), by document number.

    The name of a shard contains its unit and chunk; that chunk is read again.

    Args:
        numbers: [N] sample numbers.
        document_numbers: [N] numbers of their documents.

    Returns:
        What was found: documents whose inputs are gone are left out.
    """
    manifests = dict(zip(reader.folders, reader.manifests, strict=True))
    found: dict[int, str] = {}
    for number, document in zip(numbers, document_numbers.tolist(), strict=True):
        ((folder, shard),) = reader.shards_of(number[None])
        if document not in found and (
            place := _find(manifests[folder], folder, shard.name, document)
        ):
            found[document] = place
    return found


def _find(manifest: Manifest, folder: str, shard: str, wanted: int) -> str:
    """Where a document of a shard begins, or nothing."""
    name = SHARD.fullmatch(shard)
    try:
        settings = CorpusSettings.model_validate(manifest.settings)
    except ValueError:
        name = None
    if not name:
        return ""  # jobs.prepare did not make this folder
    # The folder was made from one of the two.
    for heldout in (False, True):
        with contextlib.suppress(CorpusError, StorageError, OSError, IndexError):
            units = _units(settings, folder, heldout)
            for chunk in read_unit(units[int(name[1])], settings):
                if not isinstance(chunk, Chunk) or chunk.number != int(name[2]):
                    continue
                for block in chunk.blocks:
                    for document in documents(block, settings.text_field):
                        if isinstance(document, Document) and document.number == wanted:
                            return document.place
    return ""


@functools.lru_cache(maxsize=2)
def _units(settings: CorpusSettings, folder: str, heldout: bool) -> list[Unit]:
    listed = list_inputs(settings, [folder], signed=False)
    return plan_units(listed.heldout if heldout else listed.sources, settings)
