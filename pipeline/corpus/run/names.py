"""Names of the files that a preparation writes.

Most hold the numbers of a unit and a chunk, so they sort in the order of the inputs.
"""

import re

END = -1
"""Stands for a chunk's number in what ends a unit."""
WORK = "_work"
CLAIM = f"{WORK}/ledger"
"""The file that holds the claim of a folder, see `output_folder`."""
LOCK = ".prepare.lock"
"""The file that the command which works on a folder holds, and removes at its end."""
_CHUNK = r"(\d{6,})-(?:(\d{4,})|end)"
_GATHERED = r"finished-(\d+)-(\d+)\.jsonl"
_SEEN = r"\.seen-[0-9a-f]{32}"
"""Files that tell a worker whether it sees this disk (`remote_disk`)."""
SHARD = re.compile(rf"shard-{_CHUNK}\.arrow")
"""Groups: the unit and the chunk."""
RECORD = re.compile(rf"{_CHUNK}\.json")
"""The record of one result. Groups: the unit and the chunk, None at the end of the unit."""
GATHERED = re.compile(_GATHERED)
"""Records in one file. Groups: the number of the file, and how many chunks it records."""
REJECTED = re.compile(rf"[a-z_]+/{_CHUNK}\.jsonl")
"""Dropped text, in a folder for each reason. Groups: the unit and the chunk."""
IN_WORK = re.compile(
    rf"{_CHUNK}\.json|ledger|{_GATHERED}|{_SEEN}"
    rf"|(?:duplicates|heldout)-[0-9a-f]{{16}}/(?:{WORK}/)?(?:{_GATHERED}|{_SEEN}|ledger"
    r"|\d{6,}-(?:\d{4,}|end)\.(?:json|signatures\.npz|marks\.npz)"
    r"|(?:sizes|clusters)\.json|duplicates\.jsonl|hashes\.npy|[a-z]+(?:-\d+)+\.(?:parts|npz|jsonl))"
)
"""Files of the folder `WORK`. First group: the unit of a record. A first pass may have more units
than the corpus, so the numbers of its units do not count."""
TEMPORARY = re.compile(r"\.(?P<name>.+)\.\d+\.tmp")
"""The names that `write_whole` gives to files that it has not finished."""


def chunk_name(unit: int, chunk: int) -> str:
    """`<unit>-<chunk>`"""
    return f"{unit:06d}-{'end' if chunk == END else f'{chunk:04d}'}"
