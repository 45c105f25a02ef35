"""The files behind an input: a file, a folder or a glob, on a local disk or in an object store."""

import heapq
import itertools
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import fsspec
from fsspec.utils import glob_translate

from pipeline.errors import CorpusError, StorageError
from pipeline.files.storage import filesystem

GLOB = re.compile(r"[*?\[]")

UNREADABLE = "unreadable"
HIDDEN = "hidden"
LINK_LOOP = "link loop"
DANGLING = "link to nothing"
LINKED_TWICE = "link to what is read under another name"
NOT_A_FILE = "not a regular file"
NAMELESS = "folder without a name (`//`), which pyarrow does not read"
NOT_ENTERED = "folder that the glob does not or cannot enter"


class File(NamedTuple):
    """A file as its folder lists it."""

    size: int
    version: str
    """The store's hash of the content, or the time of the last change."""
    fault: str = ""
    """Why it can't be read; empty for an ordinary file."""


class Found(NamedTuple):
    """The files of one input."""

    system: fsspec.AbstractFileSystem
    base: str
    """The folder that the names of the files start from."""
    files: dict[str, File]
    """By path, in order. Folders and links that are not followed are here too, with their fault."""
    named: bool
    """The input is a file, which the user named."""


def is_local(system: fsspec.AbstractFileSystem) -> bool:
    """Whether Python can open the files of a file system by path."""
    return "local" in system.protocol


def is_hidden(name: str) -> bool:
    """Whether programs leave a file or folder of this name out by convention."""
    return name.startswith((".", "_"))


def hidden_in(names: Sequence[str], levels: Sequence[str] = ()) -> bool:
    """Whether a path under an input is hidden. What a glob names is not: `_a`, for `_*/*.txt`.

    Args:
        names: the parts of the path.
        levels: those of the glob that stand for one part each, from the first one on.
    """
    return any(
        is_hidden(name) and not is_hidden(level)
        for name, level in itertools.zip_longest(names, levels[: len(names)], fillvalue="")
    )


def input_folder(text: str) -> str:
    """The path of a local file or folder; of a glob, that of the folder that it searches.

    URLs of stores are returned as they are.
    """
    system, inner = filesystem(text)
    if not is_local(system):
        return text
    return inner if os.path.lexists(inner) else _literal_folder(inner)


def _literal_folder(glob: str) -> str:
    """The first folders of a glob that exist; brackets and stars in their names are no pattern."""
    folder = "/" if glob.startswith("/") else ""
    for part in glob.split("/")[:-1]:
        if not os.path.isdir(os.path.join(folder, part)):
            break
        folder = os.path.join(folder, part)
    return folder


def find_files(text: str, setting: str, is_known: Callable[[str], bool]) -> Found:
    """List the files behind a file, folder, glob or URL. An existing name is never a glob.

    In local folders, links are followed. A folder or file that was read under another name is not
    read again because of a link, so links can neither loop nor repeat text.

    Args:
        setting: names the inputs in messages.
        is_known: whether a file is of a kind that is read, by its path. A link to a file of another
            kind is followed: its own name may tell the kind.

    Raises:
        CorpusError: there is no such file or folder, or it can't be reached or listed.
    """
    try:
        system, inner = filesystem(text)
        if is_local(system):
            return _find_local(system, inner, is_known)
        levels: Sequence[str] = ()
        nameless: list[str] = []
        if system.isdir(inner):
            listing, base = system.find(inner, detail=True), inner
            # pyarrow lists a folder in itself if there are keys with `//` behind its name.
            nameless = [path for path, info in listing.items() if info["type"] == "directory"]
        elif system.exists(inner):
            return Found(system, _parent(inner), {inner: _remote(system.info(inner))}, named=True)
        elif found := GLOB.search(inner):
            listing, base = system.glob(inner, detail=True), _parent(inner[: found.start()])
            levels = _below(base, inner).partition("**")[0].split("/")
        else:
            raise FileNotFoundError
    except FileNotFoundError:
        raise CorpusError(f"{setting}: {text}: no such file, folder or glob") from None
    except OSError as error:
        where = error.filename or text
        raise CorpusError(f"{setting}: {where}: {error.strerror or error}") from None
    except StorageError as error:
        raise CorpusError(f"{setting}: {error}") from error.__cause__
    except Exception as error:  # each library for stores raises errors of its own
        cause = f"{type(error).__name__}: {error}"
        raise CorpusError(f"{setting}: {text}: can't be listed: {cause}") from error
    files = {f"{path}//": File(0, "", NAMELESS) for path in nameless}
    for path, info in sorted(listing.items()):
        if _is_file(info):
            files[path] = file = _remote(info)
            if not file.fault and hidden_in(_below(base, path).split("/"), levels):
                files[path] = file._replace(fault=HIDDEN)
    return Found(system, base, files, named=False)


def _find_local(
    system: fsspec.AbstractFileSystem, inner: str, is_known: Callable[[str], bool]
) -> Found:
    if os.path.lexists(inner) or not GLOB.search(inner):
        status = os.stat(inner)
        if stat.S_ISDIR(status.st_mode):
            files = dict(sorted(_Walk(None, is_known).files(inner)))
            return Found(system, inner, files, named=False)
        return Found(system, _parent(inner), {inner: _local(status)}, named=True)
    base = _literal_folder(inner)
    pattern = _below(base, inner)
    if not GLOB.search(pattern.partition("/")[0]):
        raise FileNotFoundError  # a folder of this name, in which the glob begins
    base = base.rstrip("/")
    depth = None if "**" in pattern else pattern.count("/")
    levels = pattern.partition("**")[0].split("/")
    matches = re.compile(glob_translate(pattern)).match

    def is_match(path: str) -> bool:
        return matches(_below(base, path)) is not None

    def is_hidden_folder(path: str) -> bool:
        """Whether a path that is hidden is a folder in which the glob would search."""
        names = _below(base, path).split("/")
        if (depth is not None and len(names) > depth) or not os.path.isdir(path):
            return False
        parts = levels[: len(names)] if len(names) < len(levels) else levels[:-1]
        within = "/".join(names[: len(parts)])
        return re.match(glob_translate("/".join(parts)), within) is not None

    kept = {}
    walk = _Walk(depth, lambda path: is_match(path) and is_known(path), levels)
    for path, file in sorted(walk.files(base or "/")):
        if is_match(path) or (file.fault == HIDDEN and is_hidden_folder(path)):
            kept[path] = file
        elif file.fault == UNREADABLE:
            # On fixed levels it may be a folder that nobody means, such as lost+found.
            kept[path] = file if depth is None else file._replace(fault=NOT_ENTERED)
    return Found(system, base, kept, named=False)


Item = tuple[str, File]
"""A file with its path."""
Link = tuple[str, int]
"""The path of a link, and how many folders down it is."""


class _Walk:
    """All files under a folder. At `depth`, and where they can't be read, folders are items too.

    Links are followed after the files themselves, in the order of their paths, so that a link never
    takes the place of its target.

    Args:
        depth: how many folders below the first one are entered; None for all.
        is_read: whether a file is read under its path. A link to one that is not is followed.
        levels: the parts of a glob, which may name what is hidden.
    """

    def __init__(
        self, depth: int | None, is_read: Callable[[str], bool], levels: Sequence[str] = ()
    ) -> None:
        self.depth = depth
        self.is_read = is_read
        self.levels = levels
        self.read: set[tuple[int, int]] = set()
        self.entered: set[tuple[int, int]] = set()
        """Folders that were entered under their own names."""
        self.followed: set[tuple[int, int]] = set()
        """Folders that were entered through a link. None is entered twice so, which ends loops."""

    def files(self, root: str) -> Iterator[Item]:
        """The files by path, in no order. Raises OSError if there is no such folder."""
        links: list[Link] = []
        yield from self._enter(root, 0, self.entered, links)
        heapq.heapify(links)
        while links:
            path, below = heapq.heappop(links)
            if fault := _fault_of_link(path):
                yield path, File(0, "", fault)
            elif os.path.isdir(path):
                items, more = self._follow(path, below)
                yield from items
                for link in more:
                    heapq.heappush(links, link)
            else:
                yield path, self._take(path, os.stat(path), linked=True)

    def _enter(
        self, folder: str, below: int, visited: set[tuple[int, int]], links: list[Link]
    ) -> Iterator[Item]:
        """The files of a folder, `below` folders down; its links are appended to `links`."""
        if self.depth is not None and below > self.depth:
            yield folder, File(0, "", NOT_ENTERED)
            return
        identity = _identity(os.stat(folder))
        if identity in visited:
            yield folder, File(0, "", LINKED_TWICE)
            return
        visited.add(identity)
        try:
            with os.scandir(folder) as listing:
                entries = list(listing)
        except OSError:
            yield folder, File(0, "", UNREADABLE)
            return
        for entry in entries:
            if hidden_in([*[""] * below, entry.name], self.levels):
                yield entry.path, File(0, "", HIDDEN)
            elif entry.is_symlink():
                links.append((entry.path, below + 1))
            elif entry.is_dir():
                yield from self._enter(entry.path, below + 1, visited, links)
            else:
                yield entry.path, self._take(entry.path, entry.stat(), visited is self.followed)

    def _follow(self, path: str, below: int) -> tuple[list[Item], list[Link]]:
        """The files behind a link to a folder, and the links that are to be followed from there."""
        links: list[Link] = []
        items = list(self._enter(path, below, self.followed, links))
        some_read = any(self.is_read(each) and not file.fault for each, file in items)
        if _identity(os.stat(path)) in self.entered and not some_read:
            # Its links are followed from the folder's own name.
            return [(path, File(0, "", LINKED_TWICE))], []
        return items, links

    def _take(self, path: str, status: os.stat_result, linked: bool) -> File:
        if linked and _identity(status) in self.read:
            return File(0, "", LINKED_TWICE)
        if self.is_read(path):
            self.read.add(_identity(status))
        return _local(status)


def _fault_of_link(path: str) -> str:
    """Why a link is not followed; a link to a folder that contains it would never end."""
    try:
        target = os.path.realpath(path, strict=True)
        os.stat(target)
    except FileNotFoundError:
        return DANGLING
    except PermissionError:
        return UNREADABLE
    except OSError:
        return LINK_LOOP
    around = os.path.realpath(_parent(path))
    return LINK_LOOP if f"{around}/".startswith(f"{target.rstrip('/')}/") else ""


def _local(status: os.stat_result) -> File:
    fault = "" if stat.S_ISREG(status.st_mode) else NOT_A_FILE
    return File(status.st_size, str(status.st_mtime_ns), fault)


def _remote(info: dict) -> File:
    own = [info[key] for key in ("ETag", "etag", "md5Hash", "mtime") if info.get(key)]
    return File(info["size"] or 0, str(own[:1]), "" if info["type"] == "file" else NOT_A_FILE)


def _is_file(info: dict) -> bool:
    """Not a folder; object stores may list a folder as an empty object whose name ends with `/`."""
    return info["type"] != "directory" and not info["name"].endswith("/")


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _below(folder: str, path: str) -> str:
    """The path of a file from a folder on."""
    return path.removeprefix(folder).lstrip("/")


def _parent(path: str) -> str:
    return path.rpartition("/")[0]
