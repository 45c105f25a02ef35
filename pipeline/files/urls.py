"""Which paths of the settings are URLs, and URLs as others may read them."""

from __future__ import annotations

import re


def is_url(path: str) -> bool:
    """Whether a path names a place in an object store, or on the web, and not on a local disk."""
    return "://" in path


def without_password(text: str) -> str:
    """A URL, or a text with URLs, for records and messages: without the passwords in them."""
    return re.sub(r"(://[^/\s:@]*):[^/\s]*@", r"\1@", text)
