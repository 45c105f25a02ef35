"""What of the settings' paths is a URL of an object store."""

from __future__ import annotations


def is_url(path: str) -> bool:
    """Whether a path names a place in an object store, or on the web, and not on a local disk."""
    return "://" in path
