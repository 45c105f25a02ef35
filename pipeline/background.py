"""An action that a thread repeats while the main thread works."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeated(action: Callable[[], None], seconds: float, name: str) -> Iterator[None]:
    """Call `action` after every so many seconds of the block; the thread ends with the block.

    Args:
        action: must not raise; an error would end the thread.
        name: of the thread.
    """
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(seconds):
            action()

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
