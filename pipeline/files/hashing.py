"""Digests of values and files. Fingerprints hold them, so what is hashed must stay the same."""

import hashlib
import json
from pathlib import Path

import xxhash


def hash_of(values: object) -> str:
    """SHA-256, as hexadecimal digits, of values that JSON can hold."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def short_hash(text: str, digits: int = 16) -> str:
    """The first hexadecimal digits of the SHA-256 of a text: a name that no other text has."""
    return hashlib.sha256(text.encode()).hexdigest()[:digits]


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a local file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_xxh3(path: str | Path) -> str:
    """XXH3 (128 bits) of a local file: as fast as it is read, and no defence against forgery."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()
