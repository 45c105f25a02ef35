"""URLs as others may read them."""

import re


def without_password(text: str) -> str:
    """A URL, or a text with URLs, for records and messages: without the passwords in them."""
    return re.sub(r"(://[^/\s:@]*):[^/\s]*@", r"\1@", text)
