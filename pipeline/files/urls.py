"""Which paths of the settings are URLs."""


def is_url(path: str) -> bool:
    """Whether a path names a place in an object store, or on the web, and not on a local disk."""
    return "://" in path
