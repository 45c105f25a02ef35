"""One command at a time works on a run: a file with host, process and heartbeat in its folder."""

import errno
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.background import repeated
from pipeline.errors import ConfigError
from pipeline.files import holders
from pipeline.progress import Say

FILE = "lock.json"
NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP)
"""What a file system answers that has no hard links, such as a bucket mounted with FUSE."""


@contextmanager
def hold(run: Path, say: Say) -> Iterator[None]:
    """Hold the run's lock; that of a process that is gone is taken over.

    Whether a process on another host lives is known only by its heartbeat, so its lock may have to
    be watched until it is stale: a job that is submitted again on a new host goes on then. Folders
    that it makes and that are empty in the end are removed.

    Args:
        say: takes a line if that takes time.

    Raises:
        ConfigError: another command works on the run.
    """
    made = [folder for folder in (run, *run.parents) if not folder.exists()]
    run.mkdir(parents=True, exist_ok=True)
    own = holders.identity()
    path, draft = run / FILE, run / f".{FILE}.{own['host']}.{own['pid']}"
    draft.write_text(json.dumps(own), "utf-8")
    try:
        # A link appears with its content or not at all, and never in place of another lock.
        while not _linked(draft, path):
            _remove_when_gone(path, draft, say)
    finally:
        draft.unlink()

    def beat() -> None:
        with suppress(OSError):  # the storage may come back
            holder = _read(path)
            if holder == own:
                os.utime(path)
            elif holder:
                _end(f"another command has taken {run} over, because this one gave no heartbeat")

    try:
        with repeated(beat, holders.BEAT_SECONDS, "lock"):
            yield
    finally:
        if _read(path) == own:
            path.unlink()
        with suppress(OSError):  # of those that hold something by now
            for folder in made:
                folder.rmdir()


def is_held(run: Path) -> bool:
    """Whether a command seems to work on the run."""
    holder = _read(run / FILE)
    silence = time.time() - _modified(run / FILE)
    return holder is not None and not holders.is_dead(holder) and silence < holders.STALE_SECONDS


def _end(reason: str) -> None:
    """End this process at once: two commands must not write into one run."""
    print(f"error: {reason}", file=sys.stderr, flush=True)
    os._exit(ConfigError.exit_status)


def _remove_when_gone(path: Path, draft: Path, say: Say) -> None:
    """Remove the lock when its holder is gone; raise ConfigError if it lives.

    `draft`: file of this process in the same folder, for the time of the disk's host: clocks of
    other hosts may differ from it.
    """
    holder = holders.wait_until_gone(
        lambda: (_read(path), _modified(path)), lambda: _silence(path, draft), str(path), say
    )
    old = path.with_name(f".{FILE}.{socket.gethostname()}.{os.getpid()}.old")
    try:
        path.rename(old)
    except FileNotFoundError:
        return
    if _read(old) != holder:  # another command was quicker, and this is its lock
        _linked(old, path)
    old.unlink()


def _linked(source: Path, target: Path) -> bool:
    try:
        try:
            os.link(source, target)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            with target.open("xb") as file:
                file.write(source.read_bytes())
    except FileExistsError:
        return False
    return True


def _read(path: Path) -> dict[str, Any] | None:
    """The holder; None without a lock, and {} for one that cannot be read."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _silence(path: Path, draft: Path) -> float:
    os.utime(draft)
    return _modified(draft) - _modified(path)
