"""Checking a corpus folder against its manifest and the laws of samples and masks."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.corpus.records import Masks, Pairs
from pipeline.corpus.samples.masks import (
    budgets,
    count_replacements,
    maskable_words,
    masked_indices,
    masked_together,
)
from pipeline.corpus.samples.pairs import NO_LABEL, OTHER
from pipeline.corpus.shards.format import Manifest, ShardInfo, read_manifest
from pipeline.corpus.shards.shard_file import check_bytes, open_batch
from pipeline.errors import ShardError
from pipeline.files.storage import filesystem, read_whole
from pipeline.settings.corpus import MaskingSettings

_SIGMAS = 6
"""A share is wrong if it is more than this many standard deviations from its setting."""


class Verification(NamedTuple):
    """What was checked, and all that is wrong."""

    shards: int
    rows: int
    tokens: int
    masked: int
    """Masked tokens of the shards that break no law."""
    problems: list[str]
    """One line each: the shard, the law, how many rows break it and the first such row."""


def verify(folder: str) -> Verification:
    """Check hashes, schema and laws of every shard of a folder (a path or a URL).

    Raises:
        ShardError: there is no readable manifest.
    """
    manifest = read_manifest(folder)
    root = folder.rstrip("/")
    problems = list(_unlisted(root, manifest))
    replaced = np.zeros(3, np.int64)
    for info in manifest.shards:
        try:
            pairs, masks = _load(f"{root}/{info.name}", info, manifest)
        except ShardError as error:
            problems.append(str(error))
            continue
        broken = {**_pair_laws(pairs, manifest), **_mask_laws(pairs, masks, manifest)}
        for law, rows in broken.items():
            if len(rows):
                problems.append(f"{info.name}: {law}: {len(rows)} row(s), first row {rows[0]}")
        if not any(map(len, broken.values())):
            replaced += count_replacements(pairs, masks, manifest.special_ids["[MASK]"])
    problems += _wrong_shares(replaced, manifest)
    return Verification(
        shards=len(manifest.shards),
        rows=manifest.rows,
        tokens=manifest.tokens,
        masked=int(replaced.sum()),
        problems=problems,
    )


def _unlisted(root: str, manifest: Manifest) -> Iterator[str]:
    """Shards in the folder that the manifest does not list."""
    file_system, inner = filesystem(root)
    listed = {info.name for info in manifest.shards}
    # A glob would take brackets in the folder's name for a pattern.
    for path in sorted(file_system.ls(inner, detail=False)):
        name = path.rpartition("/")[2]
        if name.endswith(".arrow") and name not in listed:
            yield f"{name}: not in the manifest; it may be left from an earlier corpus"


def _load(path: str, info: ShardInfo, manifest: Manifest) -> tuple[Pairs, Masks]:
    """Read a whole shard, and check its bytes and schema.

    Raises:
        ShardError: it is missing, or its bytes or schema are not those of the manifest.
    """
    try:
        data = read_whole(path)
    except OSError as error:
        raise ShardError(f"{info.name}: can't be read: {error}") from None
    check_bytes(info.name, data, info)
    batch = open_batch(info.name, pa.py_buffer(data), info, manifest)
    offsets = {name: _offsets(batch, name) for name in ("input_ids", "masked_positions")}
    for one, other in (("input_ids", "word_starts"), ("masked_positions", "masked_ids")):
        if not np.array_equal(offsets[one], _offsets(batch, other)):
            raise ShardError(f"{info.name}: {one} and {other} differ in length")
    pairs = Pairs(
        batch["input_ids"].values.to_numpy().astype(np.int32),
        batch["word_starts"].values.to_numpy(zero_copy_only=False),
        offsets["input_ids"],
        batch["segment_b_start"].to_numpy().astype(np.int64),
        batch["next_sentence_label"].to_numpy(),
        batch["document"].to_numpy(),
    )
    masks = Masks(
        batch["masked_positions"].values.to_numpy().astype(np.int64),
        batch["masked_ids"].values.to_numpy().astype(np.int32),
        offsets["masked_positions"],
    )
    return pairs, masks


def _offsets(batch: pa.RecordBatch, name: str) -> NDArray[np.int64]:
    return batch[name].offsets.to_numpy().astype(np.int64)


def _pair_laws(pairs: Pairs, manifest: Manifest) -> dict[str, NDArray[np.int64]]:
    """The rows that break each law of a sample."""
    ids, begins, ends = pairs.input_ids, pairs.offsets[:-1], pairs.offsets[1:]
    lengths, b = np.diff(pairs.offsets), pairs.segment_b_start
    special = manifest.special_ids
    wrong_length = (lengths < 3) | (lengths > manifest.sequence_length)
    wrong_b = (b < 3) | (b > lengths)
    laws = {
        f"a sample has 3 to {manifest.sequence_length} tokens": wrong_length,
        "B begins after A, or there is no B": wrong_b,
    }
    if (wrong_length | wrong_b).any():
        return {law: np.flatnonzero(broken) for law, broken in laws.items()}
    has_b = b < lengths
    row = np.repeat(np.arange(len(lengths)), lengths)

    def count(token: str) -> NDArray[np.int64]:
        return np.bincount(row[ids == special[token]], minlength=len(lengths))

    outside = np.bincount(row[ids >= manifest.vocab_size], minlength=len(lengths))
    firsts = np.stack([begins, begins + 1, begins + b - 1, np.where(has_b, begins + b, begins)])
    laws |= {
        "ids are in the vocabulary": outside > 0,
        "[CLS] is first and only there": (ids[begins] != special["[CLS]"]) | (count("[CLS]") != 1),
        "[SEP] ends each segment and is nowhere else": (ids[begins + b - 1] != special["[SEP]"])
        | (ids[ends - 1] != special["[SEP]"])
        | (count("[SEP]") != 1 + has_b),
        "the text holds no [PAD] and no [MASK]": (count("[PAD]") + count("[MASK]")) > 0,
        "segments begin with a word": ~pairs.word_starts[firsts].all(axis=0),
        "the next-sentence label is 0 or 1 if there is a B, else 255": np.where(
            has_b, pairs.next_sentence_label > OTHER, pairs.next_sentence_label != NO_LABEL
        ),
    }
    return {law: np.flatnonzero(broken) for law, broken in laws.items()}


def _mask_laws(pairs: Pairs, masks: Masks, manifest: Manifest) -> dict[str, NDArray[np.int64]]:
    """The rows that break each law of static masks."""
    lengths, counts = np.diff(pairs.offsets), np.diff(masks.offsets)
    row = np.repeat(np.arange(len(counts)), counts)
    if manifest.masks == "none":
        return {"a corpus without masks masks nothing": np.flatnonzero(counts)}

    def rows(wrong: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.unique(row[wrong])

    laws = {"masked positions are in the sample": rows(masks.positions >= lengths[row])}
    ascending = np.append(True, (np.diff(masks.positions) > 0) | (np.diff(row) > 0))
    laws["masked positions ascend"] = rows(~ascending[: len(row)])
    if any(len(broken) for broken in laws.values()):
        return laws
    at = masked_indices(pairs, masks)
    original = pairs.input_ids[at]
    specials = list(manifest.special_ids.values())
    laws["special tokens are not masked"] = rows(np.isin(original, specials))
    drawn = (masks.ids != original) & (masks.ids != manifest.special_ids["[MASK]"])
    laws["replacements are ordinary tokens"] = rows(
        drawn & (np.isin(masks.ids, specials) | (masks.ids >= manifest.vocab_size))
    )
    chosen = np.zeros(len(pairs.input_ids), np.bool_)
    chosen[at] = True
    masking = _masking(manifest)
    begins = masked_together(pairs.word_starts, masking) if masking else pairs.word_starts
    # Within a word, a token must be masked if the one before it is.
    torn = (chosen[1:] != chosen[:-1]) & ~begins[1:]
    laws["words are masked whole or not at all"] = np.unique(
        np.searchsorted(pairs.offsets, np.flatnonzero(torn), side="right") - 1
    )
    if masking and (pairs.input_ids < manifest.vocab_size).all():
        _, sizes, samples = maskable_words(
            pairs.input_ids, begins, pairs.offsets, manifest.maskable
        )
        maskable = np.bincount(samples, sizes, len(lengths))
        longest = np.zeros(len(lengths), np.int64)
        np.maximum.at(longest, samples, sizes)
        off = np.abs(counts - budgets(lengths, maskable, masking))
        laws["the budget of masked tokens holds to within a word or n-gram"] = np.flatnonzero(
            off >= np.maximum(longest * masking.max_ngram, 1)
        )
        if masking.max_predictions is not None:
            laws["corpus.masking.max_predictions holds"] = np.flatnonzero(
                counts > masking.max_predictions
            )
    return laws


def _masking(manifest: Manifest) -> MaskingSettings | None:
    settings = manifest.settings.get("masking")
    return MaskingSettings.model_validate(settings) if settings else None


def _wrong_shares(replaced: NDArray[np.int64], manifest: Manifest) -> Iterator[str]:
    """Shares of the kinds of replacements that differ from the settings by more than chance."""
    masking, total = _masking(manifest), replaced.sum()
    if not masking or not total:
        return
    # A random token is sometimes the original.
    same = masking.random_share / max(1, manifest.vocab_size - len(manifest.special_ids))
    wanted = np.array([masking.mask_share, masking.random_share - same, 0.0])
    wanted[2] = 1 - wanted.sum()
    error = _SIGMAS * np.sqrt(np.maximum(wanted * (1 - wanted), 1 / total) / total)
    names = ("[MASK]", "a random token", "itself")
    for name, share, want, most in zip(names, replaced / total, wanted, error, strict=True):
        if abs(share - want) > most:
            yield (
                f"{share:.2%} of the masked tokens are shown as {name}; the settings say {want:.2%}"
            )
