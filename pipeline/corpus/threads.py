"""Waiting for disks and object stores in many threads at once."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from pipeline.files.storage import filesystem

T = TypeVar("T")
R = TypeVar("R")
THREADS = 32


def in_threads(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """The results of a function for all items, in their order. The first error stops the rest."""
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            yield from pool.map(function, items)
        finally:
            pool.shutdown(cancel_futures=True)


def remove_files(paths: Iterable[str]) -> None:
    """Delete files; one that is gone already does no harm."""

    def remove(path: str) -> None:
        system, inner = filesystem(path)
        if system.exists(inner):
            system.rm_file(inner)

    for _ in in_threads(remove, paths):
        pass
