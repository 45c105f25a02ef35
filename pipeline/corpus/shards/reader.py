"""Reading samples by number from folders of memory-mapped shards.

The columns are read by address; `address_space` says what that assumes.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.corpus.arrays import offsets_of
from pipeline.corpus.records import Masks, Pairs
from pipeline.corpus.samples.masks import no_masks
from pipeline.corpus.samples.pairs import NO_LABEL
from pipeline.corpus.shards.address_space import AddressRange
from pipeline.corpus.shards.format import Manifest, ShardInfo, read_manifest
from pipeline.corpus.shards.shard_file import COLUMNS, check_size, map_shard
from pipeline.errors import ShardError


class DamagedShard(ShardError):
    """A shard that cannot be used; `shards` are the numbers of such shards in their folder."""

    def __init__(self, message: str, shards: list[int]) -> None:
        super().__init__(message, shards)
        self.shards = shards


class UnreachableShard(ShardError):
    """A shard that can't be had now, and may be sound: it is never left out."""


class Rows(NamedTuple):
    """N rows of S tokens. Positions beyond a row's length hold arbitrary values."""

    lengths: NDArray[np.int64]
    """[N] tokens in each row."""
    input_ids: NDArray[np.unsignedinteger]
    """[N, S]"""
    word_starts: NDArray[np.bool_]
    """[N, S]"""
    segment_b_start: NDArray[np.uint16]
    """[N] position where segment B begins; the row's length if there is no B."""
    next_sentence_label: NDArray[np.uint8]
    """[N] 0 continuation, 1 random or swapped, 255 no label."""
    documents: NDArray[np.uint64]
    """[N] document numbers."""
    masks: Masks
    """The static masks; empty if the shards hold none."""


class ShardFolder:
    """The samples of one or several corpus folders, numbered through all shards in order.

    A shard is mapped when it is first needed.

    Args:
        locate: gives the local path of a shard, for shards that are cached elsewhere.
        mapped_bytes: how much may stay mapped; the least recently used shards are released first,
            also if there are more than half of the maps that Linux allows a process.

    Raises:
        ShardError: a folder is not a finished corpus, or the folders have different vocabularies.
    """

    def __init__(
        self,
        *folders: str | Path,
        locate: Callable[[str, ShardInfo], Path] | None = None,
        mapped_bytes: float = math.inf,
    ) -> None:
        self.folders = tuple(str(folder).rstrip("/") for folder in folders)
        self.manifests: tuple[Manifest, ...] = tuple(map(read_manifest, self.folders))
        self.manifest = self.manifests[0]
        for folder, manifest in zip(self.folders, self.manifests, strict=True):
            if manifest.vocab_sha256 != self.manifest.vocab_sha256:
                raise ShardError(
                    f"{folder} and {self.folders[0]} were made with different vocabularies; "
                    "prepare one of them again with the vocab.txt of the other"
                )
        self._shards = [
            (folder, shard)
            for folder, manifest in zip(self.folders, self.manifests, strict=True)
            for shard in manifest.shards
        ]
        self.shard_rows = np.array([shard.rows for _, shard in self._shards], np.int64)
        self._first_rows = offsets_of(self.shard_rows)
        self._longest = max(manifest.sequence_length for manifest in self.manifests)
        self._locate = locate or (lambda folder, shard: Path(folder) / shard.name)
        self._mapped_bytes, self._held_bytes = mapped_bytes, 0
        self._most_maps = _most_maps() // 2
        self._mapped: OrderedDict[int, tuple[Path, pa.Buffer]] = OrderedDict()
        self._memory = AddressRange(0, 0)
        self._addresses = np.zeros((len(self._shards), len(COLUMNS)), np.int64)
        self._sizes = np.zeros((len(self._shards), 2), np.int64)
        self._id_type = "<u2" if self.manifest.vocab_size <= 2**16 else "<u4"

    def __len__(self) -> int:
        return int(self._first_rows[-1])

    def shards_of(self, numbers: NDArray[np.integer]) -> list[tuple[str, ShardInfo]]:
        """The shards of these samples, each once, with its folder."""
        return [self._shards[shard] for shard in np.unique(self._shard_of(numbers)).tolist()]

    def in_shards(self, numbers: NDArray[np.integer], shards: set[int]) -> NDArray[np.bool_]:
        """[N] whether these samples are in shards of these numbers."""
        return np.isin(self._shard_of(numbers), list(shards))

    def _shard_of(self, numbers: NDArray[np.integer]) -> NDArray[np.int64]:
        """[N] the number of the shard of each sample."""
        return np.searchsorted(self._first_rows, numbers, side="right") - 1

    def shards_at(self, paths: frozenset[str]) -> set[int]:
        """The numbers of the shards at these local paths."""
        found = enumerate(self._shards)
        return {number for number, (folder, info) in found if str(Path(folder, info.name)) in paths}

    def sample_outside(self, shards: set[int]) -> int:
        """The first sample that is in none of these shards.

        Raises:
            ShardError: there is none.
        """
        for number, rows in enumerate(self.shard_rows):
            if number not in shards and rows:
                return int(self._first_rows[number])
        raise ShardError(f"{', '.join(self.folders)}: all shards are damaged; prepare them again")

    def rows(
        self,
        numbers: NDArray[np.integer],
        words: bool = True,
        masks: bool = True,
        multiple: int = 1,
    ) -> Rows:
        """The samples with these numbers, in this order.

        Args:
            numbers: [N] sample numbers.
            words, masks: whether to read these columns; if not, they are empty.
            multiple: S is the longest length, rounded up to a multiple of this.

        Raises:
            IndexError: there is no sample with this number.
            DamagedShard: a shard is missing or damaged.
            UnreachableShard: see `locate`.
        """
        numbers = np.asarray(numbers).astype(np.int64)
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(self):
            raise IndexError(f"{self.folders}: sample numbers go from 0 to {len(self) - 1}")
        shards = self._shard_of(numbers)
        self._map_needed(shards)
        local = numbers - self._first_rows[shards]
        memory = self._memory
        column = dict(zip(COLUMNS, self._addresses[shards].T, strict=True))
        sizes = self._sizes[shards]

        starts, lengths = self._list_bounds("input_ids", column, local, shards, sizes[:, 0])
        width = max(1, -(-int(lengths.max(initial=1)) // multiple) * multiple)
        word_starts = np.zeros((len(numbers), 0), np.bool_)
        if words:
            word_starts = memory.bits(column["word_starts"], starts, width)
        chosen = no_masks(len(numbers))
        if masks:
            name = "masked_positions"
            first, count = self._list_bounds(name, column, local, shards, sizes[:, 1])
            inside = np.arange(count.max(initial=0)) < count[:, None]
            at = memory.windows(column["masked_positions"], first, inside.shape[1], "<u2")
            ids = memory.windows(column["masked_ids"], first, inside.shape[1], self._id_type)
            chosen = Masks(
                at[inside].astype(np.int64), ids[inside].astype(np.int32), offsets_of(count)
            )
        found = Rows(
            lengths,
            memory.windows(column["input_ids"], starts, width, self._id_type),
            word_starts,
            memory.gather(column["segment_b_start"], local, "<u2"),
            memory.gather(column["next_sentence_label"], local, "u1"),
            memory.gather(column["document"], local, "<u8"),
            chosen,
        )
        self._check(found, shards)
        return found

    def _list_bounds(
        self,
        name: str,
        column: Mapping[str, NDArray[np.int64]],
        local: NDArray[np.int64],
        shards: NDArray[np.int64],
        sizes: NDArray[np.int64],
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """[N] starts and [N] lengths of lists, checked: a wrong one would end the process."""
        offsets = column[f"{name} offsets"]
        bounds = self._memory.windows(offsets, local, 2, "<i4").astype(np.int64)
        starts, ends = bounds[:, 0], bounds[:, 1]
        lengths = ends - starts
        wrong = (starts < 0) | (lengths < 0) | (lengths > self._longest) | (ends > sizes)
        self._refuse(f"offsets of {name}", wrong, shards)
        return starts, lengths

    def _check(self, rows: Rows, shards: NDArray[np.int64]) -> None:
        """Refuse values that the network or the masks can't take."""
        size = self.manifest.vocab_size
        if rows.input_ids.max(initial=0) >= size:  # perhaps beyond the end of a row
            inside = np.arange(rows.input_ids.shape[1]) < rows.lengths[:, None]
            wrong = np.any((rows.input_ids >= size) & inside, axis=1)
            self._refuse(f"ids beyond the vocabulary of {size} entries", wrong, shards)
        counts = np.diff(rows.masks.offsets)
        row = np.repeat(np.arange(len(counts)), counts)
        wrong = np.zeros(len(counts), np.bool_)
        wrong[row[(rows.masks.positions >= rows.lengths[row]) | (rows.masks.ids >= size)]] = True
        self._refuse("masks outside their sample or the vocabulary", wrong, shards)
        known = np.isin(rows.next_sentence_label, (0, 1, NO_LABEL))
        self._refuse("labels of pairs", ~known, shards)

    def _refuse(self, what: str, wrong: NDArray[np.bool_], shards: NDArray[np.int64]) -> None:
        """Raise DamagedShard if anything is wrong, with the names of the shards of these rows."""
        if wrong.any():
            numbers = np.unique(shards[wrong]).tolist()
            names = [
                f"{folder}/{info.name}" for folder, info in map(self._shards.__getitem__, numbers)
            ]
            raise DamagedShard(
                f"{', '.join(names)}: damaged {what}; delete it and run jobs.prepare again", numbers
            )

    def _map_needed(self, shards: NDArray[np.int64]) -> None:
        """Map these shards where needed, then release others if the limit is exceeded."""
        needed = np.unique(shards).tolist()
        for shard in needed:
            if shard in self._mapped:
                self._mapped.move_to_end(shard)
            self._map(shard)
        while len(self._mapped) > len(needed) and (
            self._held_bytes > self._mapped_bytes or len(self._mapped) > self._most_maps
        ):
            shard, _ = self._mapped.popitem(last=False)
            self._held_bytes -= self._shards[shard][1].bytes

    def _map(self, shard: int) -> None:
        """Map a shard, or look whether the file of a mapped one is still whole."""
        folder, info = self._shards[shard]
        try:
            if shard in self._mapped:
                check_size(self._mapped[shard][0], info)
                return
            path = self._locate(folder, info)
            buffer, *places = map_shard(path, info, self.manifest, self._longest)
        except UnreachableShard:
            raise
        except ShardError as error:
            raise DamagedShard(str(error), [shard]) from None
        self._mapped[shard] = path, buffer
        self._addresses[shard], self._sizes[shard] = places
        self._memory = self._memory.including(buffer.address, buffer.address + buffer.size)
        self._held_bytes += info.bytes


def flat_pairs(rows: Rows) -> Pairs:
    """Rows, read with their word starts, as the samples that `build_pairs` made."""
    inside = np.arange(rows.input_ids.shape[1]) < rows.lengths[:, None]
    return Pairs(
        rows.input_ids[inside].astype(np.int32),
        rows.word_starts[inside],
        offsets_of(rows.lengths),
        rows.segment_b_start.astype(np.int64),
        rows.next_sentence_label,
        rows.documents,
    )


def _most_maps() -> int:
    """How many memory maps the kernel allows a process."""
    try:
        return int(Path("/proc/sys/vm/max_map_count").read_text())
    except (OSError, ValueError):
        return 65_530
